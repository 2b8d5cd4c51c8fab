"""`mlx-gptoss bench redact`: the speed of a token classifier."""

from typing import Any

import click

from mlx_gptoss.cli.bench_output import NOTHING, BenchOutput, bench_output
from mlx_gptoss.cli.options import collect, folder_or_name, offline_option
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.shell_words import complete_models
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note

POSITIVE = click.IntRange(min=1)


@click.command("redact", short_help="Tokens a second of a token classifier")
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    default="openai/privacy-filter",
    show_default=True,
    shell_complete=complete_models,
    help="A token classifier: a path (./x) or a Hub id (a/b)",
)
@click.option(
    "--against",
    type=click.Choice(["mlx-embeddings", "transformers"]),
    multiple=True,
    help="Also measure a peer that is installed; may be repeated",
)
@click.option("--texts", type=POSITIVE, default=8, show_default=True, help="Texts")
@click.option(
    "--tokens", type=POSITIVE, default=1024, show_default=True, help="Tokens of a text"
)
@click.option(
    "--rounds",
    type=POSITIVE,
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are medians",
)
@offline_option
@bench_output
@pass_services
def redact(
    services: Services,
    *,
    model: str,
    against: tuple[str, ...],
    offline: bool,
    output: BenchOutput,
    **given: Any,
) -> None:
    """Measure what `mlx-gptoss redact` computes, on texts of random tokens.

    In float32, without reading texts and decoding labels. A ratio above 1 says that
    mlx_gptoss is faster.
    """
    from mlx_gptoss.diagnostics.bench.redact import RedactWork, bench_redact

    folder = services.fetch(folder_or_name(model), offline=offline)
    work = collect(RedactWork, given)
    found = bench_redact(folder, work, against=against, progress=note)
    output.show(found, redact_table)


def redact_table(found: Any) -> str:
    """Return one row a side, with our ratio to it."""
    rows = [["", "speed", "ratio", "labels as ours"]]
    for each in found.columns:
        if each.failure:
            rows.append([each.name, *[NOTHING] * 3])
            continue
        ratio, same = found.ratios.get(each.name), each.same_labels
        rows.append(
            [
                each.name,
                f"{each.tokens_per_second:,.0f} tok/s",
                NOTHING if ratio is None else f"{ratio:.2f}x",
                NOTHING if same is None else f"{same:.1%}",
            ]
        )
    failures = [f"{x.name}: {x.failure}" for x in found.columns if x.failure]
    return "\n".join([aligned(rows, columns=len(rows[0])), *failures])
