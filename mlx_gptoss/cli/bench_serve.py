"""`mlx-gptoss bench serve`: many streams at once, beside mlx-lm's server."""

from typing import Any

import click

from mlx_gptoss.cli.bench_output import BenchOutput, bench_output
from mlx_gptoss.cli.options import LoadOptions, loads_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note


@click.command(short_help="Throughput and first token of a server")
@loads_model
@click.option(
    "--against",
    type=click.Choice(["mlx-lm"]),
    help="Also measure a peer's server on the same folder and prompts, in turns",
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    multiple=True,
    help="Requests at once; may be repeated. [default: 1, 4, 16]",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Approximate tokens of each prompt",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    help="Tokens of each answer",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are their medians",
)
@bench_output
@pass_services
def serve(
    services: Services, *, options: LoadOptions, output: BenchOutput, **measured: Any
) -> None:
    """Measure a server with many streams: tokens per second, time to first token.

    Both servers run in their own processes, with the same dtype and BLAS. Ratios
    above 1 say that mlx_gptoss is faster.
    """
    from mlx_gptoss.diagnostics.bench.serve import bench_serve

    folder = services.find(options.named_model(), options)
    found = bench_serve(folder, dtype=options.dtype, progress=note, **measured)
    output.show(found, table)


def table(found: Any) -> str:
    """Return one row per server and number of streams, then the ratios."""
    head = ["", "streams", "throughput", "first token", "the last of them"]
    rows = [head]
    for side in found.sides:
        rows += [
            [
                side.name,
                str(level.streams),
                f"{level.tokens_per_second:.1f} tok/s",
                f"{level.first_token_s:.2f} s",
                f"{level.last_first_token_s:.2f} s",
            ]
            for level in side.levels
        ]
    lines = [aligned(rows, columns=len(head))]
    lines += [f"{side.name}: {side.failure}" for side in found.sides if side.failure]
    ratios = [
        f"{ratio.streams} streams {ratio.throughput:.2f}x, "
        f"first token {ratio.first_token:.2f}x"
        for ratio in found.ratios
    ]
    if ratios:
        names = " / ".join(side.name for side in found.sides)
        lines.append(f"{names}: " + "; ".join(ratios))
    lines.append(
        f"{found.prompt_tokens} tokens read and {found.tokens} said by each stream, "
        f"medians of {found.rounds} rounds; {found.model}, {found.dtype}, on "
        f"{found.machine}; load average {found.load_average:.1f}"
    )
    return "\n".join(lines)
