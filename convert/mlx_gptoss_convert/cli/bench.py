"""The command `bench convert`: speed and memory of the converter."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.bench_output import BenchOutput, bench_output
from mlx_gptoss.cli.options import MemorySizeType
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss_convert.measure.speed import ConvertBench

SOURCES = ("hf", "gguf", "gguf-q8", "nf4", "nvfp4")


@click.command("convert", short_help="Speed and memory of converting")
@click.option(
    "--size",
    type=MemorySizeType(),
    default="1GB",
    show_default=True,
    help="Size of the random checkpoint to convert, at least",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to write three times the size  [default: the temporary folder]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; times are their medians",
)
@click.option(
    "--source",
    type=click.Choice(SOURCES),
    default=SOURCES[0],
    show_default=True,
    help="Its form: OpenAI's, or one of other tools, which mlx-lm does not read",
)
@bench_output
def bench_convert_command(
    size: int, folder: Path | None, rounds: int, source: str, output: BenchOutput
) -> None:
    """Measure the converter against a plain copy and against mlx_lm.convert.

    Each run is a separate process on the same disk, with the source in memory. Ratios
    above 1 mean that mlx_gptoss is faster or takes less memory.
    """
    from mlx_gptoss_convert.measure.speed import bench_convert

    found = bench_convert(size, folder, rounds=rounds, form=source, progress=note)
    output.show(found, conversions_table)


def conversions_table(found: "ConvertBench") -> str:
    rows = [["", "time", "rate", "peak memory"]]
    rows += [
        [
            row.engine,
            f"{row.seconds:.2f} s",
            f"{format_bytes(round(row.rate))}/s",
            format_bytes(row.peak),
        ]
        for row in found.rows
        if not row.failure
    ]
    lines = [aligned(rows, columns=4)]
    lines += [f"{row.engine}: {row.failure}" for row in found.rows if row.failure]
    lines.append(f"lossless reaches {found.copy_share:.0%} of the rate of a copy")
    lines += [
        f"{row.engine} took {format_bytes(row.grown)} above its start, at most "
        f"{format_bytes(row.bound)} was foreseen"
        for row in found.rows
        if row.bound
    ]
    if found.peer_ratios is not None:
        times, peaks = found.peer_ratios
        lines.append(f"mlx-lm / q8: {times:.2f}x the time, {peaks:.2f}x the memory")
    return "\n".join([*lines, f"from {format_bytes(found.source_bytes)}"])
