"""`mlx-gptoss classify --policy FILE`: judge texts by policies."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.exit_codes import FAILED
from mlx_gptoss.cli.named_files import calibration_files, named_file
from mlx_gptoss.cli.options import adapter_option, loads_model
from mlx_gptoss.cli.progress_line import ProgressLine, duration
from mlx_gptoss.cli.sampling_options import HARMONY_OPTIONS
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.runtime import Runtime
    from mlx_gptoss.harmony.messages import Effort
    from mlx_gptoss.workloads.batch.run import BatchProgress
    from mlx_gptoss.workloads.classify.report import Tally
    from mlx_gptoss.workloads.classify.results import Judged
    from mlx_gptoss.workloads.classify.run import ClassifyJob

OUT = click.Path(path_type=Path, dir_okay=False)
PLACES = 64  # of requests: a text's labels are scored together


@click.command(short_help="Judge texts by a policy of one's own")
@click.argument("paths", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policies",
    metavar="[NAME=]FILE",
    multiple=True,
    required=True,
    help="Policy to judge by; several judge each text one after another",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=OUT,
    help="Write verdicts to a .jsonl, .csv or .tsv file, and go on with it if it was "
    "interrupted [default: stdout]",
)
@click.option(
    "--field",
    metavar="NAME",
    help="Field or column that has the text [default: `text`, or the only one]",
)
@click.option("--lines", is_flag=True, help="Judge each line of FILE as a text")
@click.option("--rationale", is_flag=True, help="Also ask why, in a sentence or two")
@click.option("--reasoning", is_flag=True, help="Also write what the model thought")
@click.option("--no-scores", is_flag=True, help="Do not compute how sure verdicts are")
@click.option(
    "--report",
    "as_report",
    is_flag=True,
    help="Compare with the right labels: confusion matrix, precision, recall, errors",
)
@click.option(
    "--expected",
    metavar="NAME",
    default="label",
    show_default=True,
    help="Field or column that has the right label",
)
@click.option(
    "--calibrate",
    metavar="OUT",
    type=OUT,
    help="Fit the probabilities to the right labels, and write the fit to OUT",
)
@click.option(
    "--calibration",
    "calibrations",
    metavar="[NAME=]FILE",
    multiple=True,
    help="Use what --calibrate wrote for the policy NAME [default: the only one]",
)
@loads_model
@adapter_option
@HARMONY_OPTIONS[0]
@click.option(
    "--max-tokens",
    metavar="N",
    type=click.IntRange(min=1),
    help="Most tokens of reasoning and verdict [default: the end of the context]",
)
@click.option(
    "--max-reasoning",
    metavar="N",
    type=click.IntRange(min=0),
    help="Most tokens of reasoning [default: three quarters of the room]",
)
@click.option(
    "--temperature",
    metavar="X",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Sampling temperature; 0 gives equal texts equal verdicts",
)
@click.option(
    "--parallel",
    metavar="N",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Most texts judged at a time",
)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON lines")
@pass_services
@click.pass_context
def classify(
    ctx: click.Context,
    services: Services,
    *,
    paths: tuple[Path, ...],
    policies: tuple[str, ...],
    output: Path | None,
    field: str | None,
    lines: bool,
    rationale: bool,
    reasoning: bool,
    no_scores: bool,
    as_report: bool,
    expected: str,
    calibrate: Path | None,
    calibrations: tuple[str, ...],
    model: str,
    options: "LoadOptions",
    effort: "Effort",
    max_tokens: int | None,
    max_reasoning: int | None,
    temperature: float,
    parallel: int,
    as_json: bool,
) -> None:
    """Judge texts by a policy, as gpt-oss-safeguard is trained to.

    FILE is a text, a folder of texts, or rows in `.jsonl`, `.csv` or `.tsv`; without
    one, or with `-`, stdin. A policy is a text that says what violates it and what does
    not; its labels and rules are read from it, or from lines of YAML in front. A
    verdict is one of its labels, the rule, and how sure the model is.

    \b
    mlx-gptoss classify --policy spam.md -m openai/gpt-oss-safeguard-20b letter.txt
    mlx-gptoss classify --policy spam.md comments.csv --field comment -o verdicts.csv
    mlx-gptoss classify --policy spam.md labelled.csv --report
    """
    from mlx_gptoss.engine.adapter_source import only_adapter
    from mlx_gptoss.engine.prompt_cache import CacheOptions
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.engine.scheduler import BatchOptions
    from mlx_gptoss.workloads.classify import ClassifyOptions, read_policy
    from mlx_gptoss.workloads.classify.inputs import open_texts, require_texts
    from mlx_gptoss.workloads.classify.run import ClassifyJob

    read = tuple(read_policy(path, name=n) for n, path in map(named_file, policies))
    if calibrate is not None and (len(read) > 1 or calibrations or no_scores):
        raise click.UsageError(
            "--calibrate is for one policy, without --calibration and --no-scores"
        )
    texts = open_texts(
        paths or (Path("-"),), field=field, lines=lines, stdin=_stdin(paths)
    )
    require_texts(texts)
    job = ClassifyJob(
        texts=texts,
        policies=read,
        output=output,
        options=ClassifyOptions(
            effort=effort,
            rationale=rationale,
            scores=not no_scores,
            params=SamplingParams(temperature=temperature, max_tokens=max_tokens),
            max_reasoning=max_reasoning,
            adapter=only_adapter(options.adapter_sources),
        ),
        reasoning=reasoning,
        parallel=parallel,
    )
    job.writer()  # refuse it before a model is loaded
    batching = BatchOptions(max_running=parallel, max_waiting=PLACES * parallel)
    cache = CacheOptions(requests=PLACES * parallel)  # also of those that score
    with services.open(
        model, replace(options, harmony=True, batch=batching, cache=cache)
    ) as runtime:
        if job.options.adapter is not None:
            runtime.use_adapter(job.options.adapter)
        job = _with_calibrations(job, calibrations, runtime)
        compare = as_report or calibrate is not None
        tallies, progress = _run(
            job, runtime, expected if compare else None, as_json=as_json
        )
        if calibrate is not None:
            _calibrate(tallies[0], calibrate, runtime.digest)
    if compare:
        _show_report(tallies, as_json=as_json)
    elif output is not None:
        _summarize(job, progress, as_json=as_json)
    if progress.failed:
        ctx.exit(FAILED)


def _stdin(paths: Sequence[Path]) -> Any:
    """Return what reads stdin, once. Raises UsageError at a terminal without FILE."""
    if not paths and sys.stdin.isatty():
        raise click.UsageError("give a FILE, or a text on stdin")
    if list(paths).count(Path("-")) > 1:
        raise click.UsageError("`-` is named twice: stdin can be read once")
    return sys.stdin.buffer.read


def _with_calibrations(
    job: "ClassifyJob", given: Sequence[str], runtime: "Runtime"
) -> "ClassifyJob":
    """Return the job with calibrations. Raises PolicyError for one of other work."""
    from mlx_gptoss.workloads.classify.calibration import load_calibration

    by_name = {policy.name: policy for policy in job.policies}
    found = {
        name: load_calibration(path, by_name[name], runtime.digest)
        for name, path in calibration_files(given, list(by_name)).items()
    }
    return replace(job, options=replace(job.options, calibrations=found))


def _run(
    job: "ClassifyJob", runtime: "Runtime", expected: str | None, *, as_json: bool
) -> "tuple[list[Tally], BatchProgress]":
    """Judge all texts; print verdicts if there is no output, and no right labels."""
    import asyncio

    from mlx_gptoss.workloads.classify.earlier import tally_output
    from mlx_gptoss.workloads.classify.report import Tally, right_label

    tallies = [Tally(policy) for policy in job.policies]
    writer = job.writer()

    def on_judged(judged: "Judged") -> None:
        if judged.problem is not None:
            if job.output is None:
                note(f"{judged.row.where} {judged.problem}")
            return
        if expected is None:
            if job.output is None:
                click.echo(
                    json.dumps(writer.as_json(judged), ensure_ascii=False)
                    if as_json
                    else _lines_of(judged)
                )
            return
        for tally in tallies:
            tally.add(
                right=right_label(judged.row.fields, expected, tally.policy),
                verdict=judged.verdicts[tally.policy.name],
                where=judged.row.where,
                text=job.texts.text_of(judged.row),
            )

    with ProgressLine() as line:

        def report(progress: "BatchProgress") -> None:
            if job.output is not None or expected is not None:
                text = _progress_text(progress)
                line.show(text, last=progress.done == progress.total)

        try:
            progress = asyncio.run(job.run(runtime, on_judged, report))
        except KeyboardInterrupt:
            line.close()
            if job.output is not None:
                note(f"Interrupted: the same command goes on, `{job.output}` is whole")
            raise
    if job.output is not None and expected is not None:  # also of earlier runs
        tallies = tally_output(job.output, job.texts, job.policies, expected)
    for tally in tallies:
        tally.failed = progress.failed
    return tallies, progress


def _lines_of(judged: "Judged") -> str:
    """Return a line for each verdict about a text."""
    lines = []
    for name, verdict in judged.verdicts.items():
        where = judged.row.where.strip("`")
        parts = [where if len(judged.verdicts) == 1 else f"{where} {name}"]
        parts.append(verdict.label)
        if verdict.confidence is not None:
            parts.append(f"{verdict.confidence:.1%}")
        parts += [one for one in (verdict.rule, verdict.rationale) if one]
        lines.append("  ".join(parts))
    return "\n".join(lines)


def _progress_text(progress: "BatchProgress") -> str:
    parts = [f"{progress.done:,}/{progress.total:,} judged"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    parts.append(f"{progress.cached_share:.0%} of prompts cached")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return "  ".join(parts)


def _calibrate(tally: "Tally", path: Path, model: str) -> None:
    from mlx_gptoss.workloads.classify.calibration import fit, save

    found = fit(tally.pairs, tally.policy, model)
    save(found, path)
    note(
        f"Calibrated with {found.texts:,} texts: temperature {found.temperature:.3g}, "
        f"calibration error {found.error_before:.3f} -> {found.error_after:.3f}: "
        f"`{path}`"
    )


def _show_report(tallies: "Sequence[Tally]", *, as_json: bool) -> None:
    if as_json:
        for one in tallies:
            click.echo(json.dumps(one.as_json(), ensure_ascii=False))
    else:
        click.echo("\n\n".join(one.table() for one in tallies))


def _summarize(job: "ClassifyJob", progress: "BatchProgress", *, as_json: bool) -> None:
    facts = {
        "texts": progress.total,
        "done": progress.done,
        "failed": progress.failed,
        "before": progress.before,
        "output": str(job.output),
        "errors": str(job.errors_path),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    here = progress.done - progress.before
    if not here:
        note(f"Nothing is left to do: `{job.output}` has all {progress.total:,} texts")
        return
    note(f"{here:,} texts in {duration(progress.seconds)}: `{job.output}`")
    if progress.failed:
        note(f"{progress.failed:,} have no verdict: `{job.errors_path}` says why")
