"""`mlx-gptoss tune report FOLDER`: a model with and without a trained adapter."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.options import folder_or_name, json_option, takes_load_options
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.tables import aligned

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.workloads.tune.report import TuneReport

NAME = "tuned"


@click.command(short_help="Compare a model with and without an adapter")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-m", "--model", metavar="MODEL", help="Model [default: the one that was trained]"
)
@takes_load_options
@click.option(
    "--answers",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Validation documents to answer with and without the adapter",
)
@click.option(
    "--show",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Answers to print side by side",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Most tokens of an answer",
)
@json_option
@pass_services
def report(
    services: Services,
    folder: Path,
    *,
    model: str | None,
    options: "LoadOptions",
    answers: int,
    show: int,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Report what training changed: loss, perplexity, valid calls, answers.

    Uses the validation documents of the run in FOLDER, which were not learned.
    """
    from mlx_gptoss.workloads.tune.report import make_report
    from mlx_gptoss.workloads.tune.report_source import open_source

    source = open_source(folder)
    named = folder_or_name(model or source.record.model)
    options = replace(options, adapters=(f"{NAME}={folder}",))
    documents = source.documents(services.find(named, options))
    with services.open(named, options) as runtime:
        found = make_report(
            runtime,
            documents,
            source.batches(documents),
            adapter=NAME,
            answers=answers,
            max_tokens=max_tokens,
        )
    click.echo(
        json.dumps(found.as_json(), indent=2) if as_json else report_text(found, show)
    )


def report_text(found: "TuneReport", show: int) -> str:
    """Return a table, and some answers side by side."""
    from mlx_gptoss.workloads.tune.report import perplexity

    loss, calls = found.loss, found.calls
    rows = [["", "before", "after"]]
    rows.append(["loss", f"{loss.before:.4f}", f"{loss.after:.4f}"])
    rows.append(
        [
            "perplexity",
            f"{perplexity(loss.before):.4g}",
            f"{perplexity(loss.after):.4g}",
        ]
    )
    if calls.expected:
        of = f"of {calls.expected}"
        rows.append(
            ["valid calls", f"{calls.valid_before} {of}", f"{calls.valid_after} {of}"]
        )
        rows.append(
            ["expected calls", f"{calls.same_before} {of}", f"{calls.same_after} {of}"]
        )
    lines = [
        aligned(rows, columns=3),
        f"{found.learned_tokens:,} learned tokens of {found.documents:,} validation "
        "documents",
    ]
    for answer in found.answers[:show]:
        lines += [
            "",
            f"{answer.where}: {answer.prompt[-300:]}",
            f"  expected: {answer.expected}",
            f"  before:   {answer.before}",
            f"  after:    {answer.after}",
        ]
    return "\n".join(lines)
