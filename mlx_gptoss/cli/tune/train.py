"""`mlx-gptoss tune DATA`: train an adapter, with a line of progress."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.exit_codes import INTERRUPTED
from mlx_gptoss.cli.options import collect, json_option, loads_model
from mlx_gptoss.cli.progress import ByteProgress
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.cli.tune.options import trains
from mlx_gptoss.cli.tune.progress import TrainingLine
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.workloads.tune.prepare import PreparedRun, TuneRequest
    from mlx_gptoss.workloads.tune.training_run import TuneOutcome


@click.command(short_help="Train an adapter on examples")
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@loads_model
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the adapter, its log and its state",
)
@trains
@click.option("--resume", is_flag=True, help="Go on with the run in FOLDER")
@click.option(
    "--preview",
    is_flag=True,
    help="Show the first example, with what is learned marked, and the plan; then stop",
)
@json_option
@pass_services
@click.pass_context
def train(
    ctx: click.Context,
    services: Services,
    data: Path,
    *,
    model: str,
    options: "LoadOptions",
    folder: Path,
    valid: Path | None,
    resume: bool,
    preview: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train an adapter of a model on DATA, and keep the best in FOLDER.

    DATA is a JSONL file of conversations (`messages`, with `tools`, `thinking`, calls
    and results), of Harmony messages, or of texts; or a folder of texts. Ctrl-C keeps
    the best adapter so far, and --resume goes on.

    \b
    mlx-gptoss tune chats.jsonl -m demo -o ./mine --epochs 3
    mlx-gptoss tune chats.jsonl -m demo -o ./mine --epochs 3 --resume
    mlx-gptoss chat -m demo -a ./mine
    """
    from mlx_gptoss.workloads.tune.options import TuneOptions
    from mlx_gptoss.workloads.tune.prepare import TuneRequest, prepare, require_resident
    from mlx_gptoss.workloads.tune.settings import CorpusSettings

    require_resident(options)
    settings = collect(CorpusSettings, given)
    request = TuneRequest(
        model=model,
        model_folder=services.find(model, options),
        data=data,
        folder=folder,
        options=collect(TuneOptions, given),
        settings=settings,
        load_options=options,
        valid=valid,
        resume=resume,
    )
    with ByteProgress(f"Reading {data}") as progress:
        prepared = prepare(request, progress=progress)
    _describe(prepared)
    if preview:
        _preview(prepared)
        return
    outcome = _train(services, prepared)
    if as_json:
        click.echo(json.dumps(asdict(outcome) | {"folder": str(folder)}, indent=2))
    else:
        click.echo(_summary(outcome, folder))
    if outcome.reason == "interrupted":
        ctx.exit(INTERRUPTED)


def _train(services: Services, prepared: "PreparedRun") -> "TuneOutcome":
    from mlx_gptoss.workloads.tune.train import train as run

    with (
        services.open(prepared.request.model, prepared.load_options) as runtime,
        TrainingLine() as line,
    ):
        return run(prepared, runtime, report=line)


def _describe(prepared: "PreparedRun") -> None:
    """Say what is trained, and what it takes, on stderr."""
    for line in prepared.corpus.notices:
        note(f"({line})")
    counts = prepared.corpus.summary()
    train, valid = counts["train"], counts["valid"]
    note(
        f"{train['documents']:,} documents, {train['learned_tokens']:,} of "
        f"{train['tokens']:,} tokens are learned; {valid['documents']:,} documents "
        "validate"
    )
    plan, load = prepared.plan, prepared.plan.load
    how = [
        "layers computed again for their gradient" if load.checkpointed else "",
        "experts decoded to float32" if load.decoded else "",
    ]
    note(
        f"{prepared.record.steps:,} steps, {load.trained_values:,} trained numbers, "
        f"{format_bytes(plan.array_bytes)} at most"
        + "".join(f", {each}" for each in how if each)
    )
    if prepared.saved is not None:
        note(f"going on at step {prepared.saved.state.step:,}")


def _preview(prepared: "PreparedRun") -> None:
    from mlx_gptoss.workloads.tune.preview import bracketed, marked_texts

    document = prepared.corpus.train[0]
    tokenizer = prepared.tokenizer
    if not sys.stdout.isatty():
        click.echo(bracketed(document, tokenizer))
        return
    for text, learned in marked_texts(document, tokenizer):
        click.secho(text, bold=learned, dim=not learned, nl=False)
    click.echo()


def _summary(outcome: "TuneOutcome", folder: Path) -> str:
    """Say how the run ended, what is kept, and what can be done with it."""
    ended = {
        "finished": f"Trained {outcome.step:,} steps",
        "patience": f"Stopped at step {outcome.step:,} of {outcome.steps:,}: the "
        "validation loss falls no more",
        "interrupted": f"Interrupted at step {outcome.step:,} of {outcome.steps:,}",
    }[outcome.reason]
    if not outcome.step:
        return f"{ended}: nothing was trained; the same command with --resume starts"
    lines = [f"{ended}; `{folder}` has the adapter of step {outcome.kept_step:,}"]
    if outcome.loss is not None:
        before = "" if outcome.before is None else f", before training {outcome.before:.4f}"
        lines.append(f"validation loss {outcome.loss:.4f}{before}")
        if outcome.before is not None and outcome.loss > outcome.before:
            lines.append("it is worse than the model without it: train more, or slower")
    if outcome.reason == "interrupted":
        lines.append("the same command with --resume goes on")
    return "\n".join(lines)
