"""`mlx-gptoss batch IN OUT`: work through a file of requests or texts."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.exit_codes import FAILED
from mlx_gptoss.cli.given import refuse_given
from mlx_gptoss.cli.options import adapter_option, json_option, loads_model
from mlx_gptoss.cli.progress_line import ProgressLine, duration
from mlx_gptoss.cli.redact.model import masking
from mlx_gptoss.cli.sampling_options import takes_sampling
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.workloads.batch import BatchJob, BatchSummary, Template
    from mlx_gptoss.workloads.batch.check import BatchCheck
    from mlx_gptoss.workloads.batch.run import BatchProgress

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
OF_TEMPLATES = (
    "json_schema",
    "system",
    "effort",
    "max_tokens",
    "redact",
    "patterns_only",
)


@click.command(short_help="Work through a file of requests or texts")
@click.argument("source", metavar="IN", type=PATH)
@click.argument(
    "output", metavar="OUT", type=click.Path(path_type=Path, dir_okay=False)
)
@click.option(
    "--prompt",
    metavar="TEXT",
    help="What is asked of each row; `{name}` is its field of that name, `@FILE` reads "
    "the text from a file",
)
@click.option(
    "--json-schema",
    metavar="FILE",
    type=FILE,
    help="Answer in JSON that follows the schema in this file; its properties become "
    "columns",
)
@loads_model
@adapter_option
@takes_sampling
@click.option(
    "--parallel",
    metavar="N",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Most rows answered at a time",
)
@click.option(
    "--as-they-end",
    is_flag=True,
    help="Write replies as they end [default: in the order of IN]",
)
@click.option(
    "--errors",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the rows without an answer [default: OUT with .errors.jsonl]",
)
@click.option(
    "--retries",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Try a row again after an error that is not its own",
)
@click.option(
    "--redact",
    is_flag=True,
    help="Mask what is private in rows before they are asked about, with "
    "openai/privacy-filter or $MLX_GPTOSS_REDACT_MODEL",
)
@click.option(
    "--patterns-only",
    is_flag=True,
    help="Mask only what patterns find, without a model (see `redact`)",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what there is to do, and what is wrong"
)
@json_option
@pass_services
@click.pass_context
def batch(
    ctx: click.Context,
    services: Services,
    *,
    source: Path,
    output: Path,
    prompt: str | None,
    json_schema: Path | None,
    model: str,
    options: "LoadOptions",
    effort: str,
    system: str | None,
    params: "SamplingParams",
    parallel: int,
    as_they_end: bool,
    errors: Path | None,
    retries: int,
    redact: bool,
    patterns_only: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Answer every row of IN, and write the replies to OUT.

    IN is a `.jsonl` file of requests in the form of OpenAI's Batch API; or, with
    --prompt, a `.jsonl`, `.csv` or `.tsv` table, the lines of a `.txt` or `.log` file
    (`{text}`), or a folder of texts (`{file}`, `{text}`). OUT is `.jsonl`, or for a
    --prompt also `.csv` or `.tsv`.

    The rows are answered together. Interrupt it whenever you like: the same command
    goes on where it was. A row that cannot be answered stops nothing.

    \b
    mlx-gptoss batch requests.jsonl replies.jsonl
    mlx-gptoss batch letters.csv parties.csv --prompt "Who are the parties? {letter}"
    """
    from mlx_gptoss.api.settings import ServerSettings
    from mlx_gptoss.engine.adapter_source import only_adapter
    from mlx_gptoss.engine.prompt_cache import CacheOptions
    from mlx_gptoss.engine.scheduler import BatchOptions
    from mlx_gptoss.workloads.batch import BatchJob

    template = None
    if prompt is None:
        refuse_given(OF_TEMPLATES, "needs --prompt: whole requests say it themselves")
    else:
        template = _template(prompt, json_schema, system, effort, params)
        if redact or patterns_only:
            template = masking(template, services, patterns_only=patterns_only)
    job = BatchJob(
        source=source,
        output=output,
        errors=errors,
        template=template,
        model=model,
        parallel=parallel,
        in_order=not as_they_end,
        retries=retries,
        settings=ServerSettings(sampling=replace(params, max_tokens=None)),
    )
    job.open_input()  # refuse it before a model is loaded
    if dry_run:
        _print_check(services, job, model, options, as_json=as_json)
        return
    adapter = only_adapter(options.adapter_sources)
    batching = BatchOptions(max_running=parallel, max_waiting=parallel)
    cache = CacheOptions(requests=2 * parallel)  # rows are not continued
    with services.open(
        model, replace(options, harmony=True, batch=batching, cache=cache)
    ) as runtime:
        if adapter is not None:
            runtime.use_adapter(adapter)
        summary = _run(job, runtime)
    if as_json:
        facts = asdict(summary) | {"output": str(output), "errors": str(summary.errors)}
        click.echo(json.dumps(facts, indent=2))
    else:
        note(_summary(summary))
    if summary.failed:
        ctx.exit(FAILED)


def _template(
    prompt: str,
    json_schema: Path | None,
    system: str | None,
    effort: str,
    params: "SamplingParams",
) -> "Template":
    from mlx_gptoss.workloads.batch import Template

    fields: dict[str, Any] = {"reasoning_effort": effort}
    fields |= {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens")
        if (value := getattr(params, name)) is not None
    }
    return Template(_prompt_text(prompt), system, _read_schema(json_schema), fields)


def _prompt_text(prompt: str) -> str:
    """Return the prompt, or the text of the file that it names."""
    if not prompt.startswith("@"):
        return prompt
    try:
        return Path(prompt[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--prompt {prompt} cannot be read: {error}") from error


def _read_schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.UsageError(f"`{path}` is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise click.UsageError(f"`{path}` is no JSON schema: it must be an object")
    return schema


def _run(job: "BatchJob", runtime: Any) -> "BatchSummary":
    import asyncio

    with ProgressLine() as line:

        def report(progress: "BatchProgress") -> None:
            line.show(_progress_text(progress), last=progress.done == progress.total)

        try:
            return asyncio.run(job.run(runtime, report))
        except KeyboardInterrupt:
            line.close()
            note(f"Interrupted: the same command goes on, `{job.output}` is whole")
            raise


def _progress_text(progress: "BatchProgress") -> str:
    """Return one line: rows done and failed, speed, share of the cache, time left."""
    parts = [f"{progress.done:,}/{progress.total:,} done"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    parts.append(f"{progress.tokens_per_second:,.0f} tok/s")
    parts.append(f"{progress.cached_share:.0%} of prompts cached")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return "  ".join(parts)


def _summary(summary: "BatchSummary") -> str:
    """Say what was done, and where it is."""
    here = summary.done - summary.before
    if not here:
        left = f"Nothing is left to do: `{summary.output}` has all {summary.total:,}"
        return f"{left} rows"
    lines = [
        f"{here:,} rows in {duration(summary.seconds)}"
        + (f", {summary.before:,} were done before" if summary.before else "")
        + f": `{summary.output}`"
    ]
    if summary.failed:
        lines.append(
            f"{summary.failed:,} rows have no answer: `{summary.errors}` says why"
        )
    return "\n".join(lines)


def _print_check(
    services: Services,
    job: "BatchJob",
    model: str,
    options: "LoadOptions",
    *,
    as_json: bool,
) -> None:
    """Print what there is to do, how long it may take, and what is wrong."""
    from mlx_gptoss.workloads.batch.check import check_batch

    folder = services.fetch(model, offline=True)
    check = check_batch(job, folder, options.context)
    speed = _predict(services, folder, model, options, check) if check.count else {}
    if as_json:
        click.echo(json.dumps(asdict(check) | speed, indent=2))
        return
    lines = [
        f"{count:,} request{'' if count == 1 else 's'} to {url}"
        for url, count in check.requests.items()
    ]
    lines.append(
        f"{check.prompt_tokens:,} tokens of prompts, {check.longest_prompt:,} the "
        f"longest; {check.new_tokens:,} are to be read, the others are shared"
    )
    if speed:
        lines.append(
            f"reading takes about {duration(speed['reading_seconds'])}; answers of 100 "
            f"tokens, one at a time, {duration(speed['answering_seconds'])}, together "
            "less" + ("" if speed["basis"] == "probe" else " (a guess: see `probe`)")
        )
    if check.failing:
        lines.append(f"{check.failing:,} rows cannot be answered:")
        lines += [f"  {one}" for one in check.problems]
        if check.failing > len(check.problems):
            lines.append("  …")
    click.echo("\n".join(lines))


def _predict(
    services: Services,
    folder: Path,
    model: str,
    options: "LoadOptions",
    check: "BatchCheck",
) -> dict[str, Any]:
    """Predict the seconds of reading, and of answers of 100 tokens."""
    from mlx_gptoss.engine.forecast import forecast, model_from_folder

    machine, budget = services.device()
    planned = model_from_folder(folder, model, options.compute_dtype.size)
    length = max(1, check.new_tokens // check.count)
    found = forecast(planned, options, budget, machine, prompt_tokens=length).prediction
    answered = 100 * check.count / found.tokens_per_second.expected
    return {
        "reading_seconds": check.count * found.first_token_seconds.expected,
        "answering_seconds": answered,
        "basis": found.basis,
    }
