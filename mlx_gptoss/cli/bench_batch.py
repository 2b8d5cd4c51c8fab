"""`mlx-gptoss bench batch`: the throughput of a pile of texts."""

from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.bench_output import NOTHING, BenchOutput, bench_output
from mlx_gptoss.cli.options import collect, loads_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions

POSITIVE = click.IntRange(min=1)


@click.command("batch", short_help="A pile of texts behind one policy")
@loads_model
@click.option(
    "--against",
    type=click.Choice(["mlx-lm"]),
    help="Also ask a peer's server on the same folder for the same, in turns",
)
@click.option("--rows", type=POSITIVE, default=500, show_default=True, help="Texts")
@click.option(
    "--policy",
    type=POSITIVE,
    default=1500,
    show_default=True,
    help="Tokens that all prompts begin with",
)
@click.option(
    "--shortest", type=POSITIVE, default=60, show_default=True, help="Tokens of a text"
)
@click.option(
    "--longest", type=POSITIVE, default=300, show_default=True, help="Tokens of a text"
)
@click.option(
    "--tokens",
    type=POSITIVE,
    default=32,
    show_default=True,
    help="Tokens of each answer",
)
@click.option(
    "--parallel",
    type=POSITIVE,
    default=16,
    show_default=True,
    help="Rows at a time, and requests at a time to the peer",
)
@click.option(
    "--peer-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=1),
    help="Ask the peer for no more rows after this time; its rate is that of the rows "
    "done [default: all rows]",
)
@click.option(
    "--rounds",
    type=POSITIVE,
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are medians",
)
@bench_output
@pass_services
def batch(
    services: Services,
    *,
    model: str,
    options: "LoadOptions",
    output: BenchOutput,
    against: str | None,
    rounds: int,
    **given: Any,
) -> None:
    """Measure `mlx-gptoss batch` on random texts behind one long policy.

    With `--against mlx-lm` as many requests at a time ask mlx-lm's server for the same
    answers. A ratio above 1 says that mlx_gptoss is faster.
    """
    from mlx_gptoss.diagnostics.bench.batch import PileWork, bench_batch

    found = bench_batch(
        services.find(model, options),
        options,
        collect(PileWork, given),
        against=against,
        rounds=rounds,
        progress=note,
    )
    output.show(found, batch_table)


def batch_table(found: Any) -> str:
    """Return one row per side, and the ratio."""
    head = ["", "rows", "time", "rate", "answers", "cached", "memory, early and late"]
    rows = [head]
    for each in found.columns:
        if each.failure:
            rows.append([each.name, *([NOTHING] * (len(head) - 1))])
            continue
        cached = NOTHING if each.cached_share is None else f"{each.cached_share:.0%}"
        memory = NOTHING
        if each.late_rss is not None:
            memory = f"{format_bytes(each.early_rss)}, {format_bytes(each.late_rss)}"
        rows.append(
            [
                each.name,
                f"{each.rows:,}",
                f"{each.seconds:.1f} s",
                f"{each.rows_per_second:.2f}/s",
                f"{each.tokens_per_second:,.0f} tok/s",
                cached,
                memory,
            ]
        )
    lines = [aligned(rows, columns=len(head))]
    lines += [f"{x.name}: {x.failure}" for x in found.columns if x.failure]
    if found.ratio is not None:
        lines.append(f"{found.ratio:.2f}x as fast as mlx-lm's server")
    return "\n".join(lines)
