"""`mlx-gptoss bench decode`: speed of one stream, or operations and time of a step."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.bench_output import BenchOutput, bench_output
from mlx_gptoss.cli.bench_tables import NOTHING
from mlx_gptoss.cli.options import adapter_option, loads_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.memory.plan import AUTO, RESIDENT

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions

OPERATIONS, STEPS = "decode --operations", "decode --batch"


@click.command(short_help="Prefill and decode speed")
@loads_model
@adapter_option
@click.option(
    "--against",
    type=click.Choice(["mlx-lm"]),
    help="Also measure a peer on the same folder, round by round",
)
@click.option(
    "--depth",
    "depths",
    type=click.IntRange(min=1),
    multiple=True,
    help="Tokens of the prompt; may be repeated. "
    "[default: 128, 2048, 8192 on GPU; 32, 256 on CPU]",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=32,
    show_default=True,
    help="Tokens to decode after each prompt",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are their medians",
)
@click.option(
    "--operations",
    is_flag=True,
    help="Count the operations of one decode step, ours and mlx-lm's, and time nothing",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows that decode together: count or time the step of the server's scheduler",
)
@click.option(
    "--guided",
    is_flag=True,
    help="Time steps whose rows have a guide each, as chat answers do",
)
@bench_output
@pass_services
def decode(
    services: Services,
    *,
    model: str,
    options: "LoadOptions",
    output: BenchOutput,
    operations: bool,
    batch: int | None,
    guided: bool,
    **measured: Any,
) -> None:
    """Measure prefill, decode, loading and memory.

    With `--against mlx-lm` stock mlx-lm reads the same folder in its own process, with
    the same dtype and BLAS; a third column is mlx-lm as shipped. Ratios above 1 say
    that mlx_gptoss is faster. With `--adapter` the second column is the same model
    without the adapter.

    `--operations` counts instead what one decode step of `--batch N` rows behind
    `--depth D` tokens computes (default: 1 row, 64 tokens): MLX's operations that are
    no views, the same on every machine of one kind. `--batch N` alone times the steps
    of one row and of N, in milliseconds, with sampling at temperature 1.
    """
    folder = services.find(model, options)
    services.find_adapters(options)
    if operations:
        found, table = _count(folder, options, batch or 1, guided, **measured)
        output.show(found, table, bench=OPERATIONS)
    elif batch is not None or guided:
        found, table = _time_steps(folder, options, batch or 1, guided, **measured)
        output.show(found, table, bench=STEPS)
    else:
        from mlx_gptoss.diagnostics.bench.decode import bench_decode

        found = bench_decode(folder, options, progress=note, **measured)
        output.show(found, decode_table)


def _count(
    folder: Path,
    options: "LoadOptions",
    batch: int,
    guided: bool,
    *,
    depths: tuple[int, ...],
    **_: Any,  # mlx-lm is counted in any case, and nothing is timed
) -> tuple[Any, Callable[[Any], str]]:
    from mlx_gptoss.diagnostics.bench.operations import bench_operations

    if guided:
        raise click.UsageError("`--guided` is timed, not counted: drop `--operations`")
    if options.experts not in (AUTO, RESIDENT):
        raise click.UsageError(
            f"`--operations` counts resident experts: drop `--experts "
            f"{options.experts}`"
        )
    found = bench_operations(
        folder, options, batch=batch, progress=note, **_one_depth(depths)
    )
    return found, operations_table


def _time_steps(
    folder: Path,
    options: "LoadOptions",
    batch: int,
    guided: bool,
    *,
    depths: tuple[int, ...],
    against: str | None,
    **measured: Any,
) -> tuple[Any, Callable[[Any], str]]:
    from mlx_gptoss.diagnostics.bench.steps import bench_steps

    if against is not None:
        raise click.UsageError(
            f"`--batch` times our steps alone: use `bench serve --against {against}`"
        )
    found = bench_steps(
        folder,
        options,
        batch=batch,
        guided=guided,
        progress=note,
        **_one_depth(depths),
        **measured,
    )
    return found, steps_table


def _one_depth(depths: tuple[int, ...]) -> dict[str, int]:
    if len(depths) > 1:
        raise click.UsageError("`--operations` and `--batch` take one `--depth`")
    return {"depth": depths[0]} if depths else {}


def operations_table(found: Any) -> str:
    """Return one row per engine."""
    rows = [["", "operations", "views", "dtype", "version"]]
    rows += [
        [
            name,
            f"{each.operations:,}",
            f"{each.views:,}",
            each.dtype,
            each.package.split()[-1],
        ]
        for name, each in found.engines.items()
        if not each.failure
    ]
    lines = [aligned(rows, columns=5)]
    lines += [
        f"{name}: {each.failure}"
        for name, each in found.engines.items()
        if each.failure
    ]
    lines.append(
        f"one decode step of {found.rows} rows behind {found.depth:,} tokens; "
        f"{found.model}"
    )
    return "\n".join(lines)


def steps_table(found: Any) -> str:
    """Return one row per number of rows."""
    rows = [["rows", "a step", "fastest round", "tokens per second"]]
    rows += [
        [
            str(step.rows),
            f"{step.milliseconds:.2f} ms",
            f"{step.fastest:.2f} ms",
            f"{1e3 * step.rows / step.milliseconds:.1f}",
        ]
        for step in found.steps
    ]
    guide = "with a guide per row" if found.guided else "without guides"
    return "\n".join(
        [
            aligned(rows, columns=4),
            f"behind {found.depth:,} tokens, sampled {guide}, medians of "
            f"{found.rounds} rounds of {found.tokens} tokens; {found.model} on "
            f"{found.machine}; load average {found.load_average:.1f}",
        ]
    )


def decode_table(found: Any) -> str:
    columns = found.columns
    rows = [["", *(column.name for column in columns)]]

    def row(label: str, cell: Callable[[Any], str]) -> None:
        cells = (NOTHING if c.failure else cell(c) for c in columns)
        rows.append([label, *cells])

    row("version", lambda c: c.package.split()[-1])
    row("dtype", lambda c: c.dtype)
    row("BLAS", lambda c: c.blas)
    if any(c.experts not in ("", RESIDENT) for c in columns):
        row("experts", lambda c: c.experts)
        row("hit rate", lambda c: f"{c.hit_rate:.1%}")
    row("load", lambda c: f"{c.load_s:.2f} s")
    for depth in sorted({p.depth for c in columns for p in c.points}):
        rows += [[""], *depth_rows(columns, depth)]
    rows.append([""])
    row("peak memory", lambda c: format_bytes(c.peak_memory))
    row("peak process", lambda c: format_bytes(c.peak_rss))
    if all(c.experts in ("", RESIDENT) for c in columns):  # others evaluate on the way
        row("primitives/token", lambda c: f"{c.primitives_per_token:,}")
    lines = [aligned(rows, columns=len(columns) + 1)]
    lines += [f"{c.name}: {c.failure}" for c in columns if c.failure]
    ratios = [
        f"depth {ratio.depth}: prefill {ratio.prefill:.2f}x, decode {ratio.decode:.2f}x"
        for ratio in found.ratios
    ]
    if ratios:
        lines.append(f"{columns[0].name} / {columns[1].name}: " + "; ".join(ratios))
    where = f"{found.model} on {found.machine}; load average {found.load_average:.1f}"
    return "\n".join([*lines, where])


def depth_rows(columns: Any, depth: int) -> list[list[str]]:
    at = [next((p for p in c.points if p.depth == depth), None) for c in columns]
    return [
        [f"prefill {depth}", *(f"{p.prefill:.1f} tok/s" if p else NOTHING for p in at)],
        ["first token", *(f"{p.first_token_s:.3f} s" if p else NOTHING for p in at)],
        [
            f"decode at {depth}",
            *(f"{p.decode:.1f} tok/s" if p else NOTHING for p in at),
        ],
        ["rounds", *(str(p.rounds) if p else NOTHING for p in at)],
    ]
