"""`mlx-gptoss tune DATA`: train an adapter, with a line of progress."""

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.exit_codes import INTERRUPTED
from mlx_gptoss.cli.given import is_given, refuse_given
from mlx_gptoss.cli.options import json_option, loads_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import coloured, note
from mlx_gptoss.cli.tune.corpus_options import (
    open_corpus,
    show_preview,
    takes_corpus_settings,
)
from mlx_gptoss.cli.tune.options import trains
from mlx_gptoss.cli.tune.progress import TrainingLine
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.workloads.tune.options import TuneOptions
    from mlx_gptoss.workloads.tune.prepare import PreparedRun
    from mlx_gptoss.workloads.tune.settings import CorpusSettings
    from mlx_gptoss.workloads.tune.training_run import TuneOutcome


# Options that no preview heeds, besides those of training.
NOT_OF_PREVIEW = (
    *("folder", "start", "resume", "as_json"),
    *("memory", "experts", "context", "dtype", "wired", "trace", "strict"),
)


@click.command(short_help="Train an adapter on examples")
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@loads_model
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the adapter, its log and its state",
)
@takes_corpus_settings
@trains
@click.option(
    "--start",
    metavar="ADAPTER",
    type=click.Path(path_type=Path, exists=True),
    help="Train this adapter on, in a folder of its own [default: a new one]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in FOLDER")
@click.option(
    "--preview",
    is_flag=True,
    help="Show the first example, with what is learned marked, and stop",
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
    folder: Path | None,
    settings: "CorpusSettings",
    valid: Path | None,
    tuning: "TuneOptions",
    start: Path | None,
    resume: bool,
    preview: bool,
    as_json: bool,
) -> None:
    """Train an adapter (LoRA) of a model on DATA, and keep the best in FOLDER.

    DATA is a JSONL file of conversations (`messages`, with `tools`, `thinking`, calls
    and results), of Harmony messages, or of texts; or a folder of texts. Ctrl-C keeps
    the best adapter so far, and --resume goes on.

    \b
    mlx-gptoss tune chats.jsonl -m demo --preview
    mlx-gptoss tune chats.jsonl -m demo -o ./mine --epochs 3
    mlx-gptoss chat -m demo -a ./mine
    """
    from mlx_gptoss.checkpoint.tokenizer import Tokenizer
    from mlx_gptoss.workloads.tune.prepare import TuneRequest, prepare, require_resident

    if folder is None and not preview:
        raise click.UsageError("name the folder of the adapter with `-o FOLDER`")
    _refuse_what_does_nothing(data, valid, preview=preview)
    require_resident(options)
    model_folder = services.find(model, options)
    tokenizer = Tokenizer.open(model_folder)
    corpus = open_corpus(data, tokenizer, settings, valid)
    if preview or folder is None:
        show_preview(corpus, tokenizer, coloured=coloured(sys.stdout))
        return
    request = TuneRequest(
        model=model,
        model_folder=model_folder,
        data=data,
        folder=folder,
        options=tuning,
        settings=settings,
        load_options=options,
        valid=valid,
        start=start,
        resume=resume,
    )
    prepared = prepare(request, corpus)
    note(_described(prepared))
    outcome = _train(services, prepared)
    if as_json:
        click.echo(json.dumps(asdict(outcome) | {"folder": str(folder)}, indent=2))
    else:
        click.echo(_summary(outcome, folder))
    if outcome.reason == "interrupted":
        ctx.exit(INTERRUPTED)


def _refuse_what_does_nothing(data: Path, valid: Path | None, *, preview: bool) -> None:
    """Raise UsageError for an option that others leave without an effect."""
    from mlx_gptoss.workloads.tune.options import TuneOptions
    from mlx_gptoss.workloads.tune.sources import valid_file_beside

    if is_given("steps"):
        refuse_given(["epochs"], "and --steps both say how long: give one")
    if valid is not None:
        refuse_given(["valid_share"], "does nothing with --valid: leave it out")
    elif (beside := valid_file_beside(data)) is not None:
        refuse_given(["valid_share"], f"does nothing: `{beside}` validates")
    if preview:
        training = (each.name for each in fields(TuneOptions))
        refuse_given(
            [*training, *NOT_OF_PREVIEW], "does nothing with --preview: leave it out"
        )


def _train(services: Services, prepared: "PreparedRun") -> "TuneOutcome":
    from mlx_gptoss.workloads.tune.train import train as run

    with (
        services.open(prepared.request.model, prepared.load_options) as runtime,
        TrainingLine() as line,
    ):
        return run(prepared, runtime, report=line)


def _described(prepared: "PreparedRun") -> str:
    """Return what is trained, and what it takes."""
    counts = prepared.corpus.summary()
    train, valid = counts["train"], counts["valid"]
    plan, load = prepared.plan, prepared.plan.load
    lines = [
        f"{train['documents']:,} documents, {train['learned_tokens']:,} of "
        f"{train['tokens']:,} tokens are learned; {valid['documents']:,} documents "
        "validate",
        f"{prepared.record.steps:,} steps, {load.trained_values:,} trained numbers, "
        f"{format_bytes(plan.array_bytes)} at most"
        + (", layers computed again for their gradient" if load.checkpointed else "")
        + (", weights decoded to float32" if load.decoded else ""),
    ]
    if prepared.saved is not None:
        lines.append(f"going on after step {prepared.saved.state.step:,}")
    return "\n".join(lines)


def _summary(outcome: "TuneOutcome", folder: Path) -> str:
    """Say how the run ended, what is kept, and what can be done with it."""
    ended = {
        "finished": f"Trained {outcome.step:,} steps",
        "patience": f"Stopped at step {outcome.step:,} of {outcome.steps:,}: the "
        "validation loss falls no more",
        "interrupted": f"Interrupted at step {outcome.step:,} of {outcome.steps:,}",
    }[outcome.reason]
    if outcome.kept_step is None:
        return f"{ended}: nothing was trained; the same command with --resume starts"
    lines = [f"{ended}; `{folder}` has the adapter of step {outcome.kept_step:,}"]
    if outcome.loss is not None:
        before = (
            "" if outcome.before is None else f", before training {outcome.before:.4f}"
        )
        lines.append(f"validation loss {outcome.loss:.4f}{before}")
        if outcome.before is not None and outcome.loss > outcome.before:
            lines.append("it was lower before: train more, or slower")
    if outcome.reason == "interrupted":
        lines.append("the same command with --resume goes on")
    return "\n".join(lines)
