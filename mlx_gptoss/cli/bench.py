"""`mlx-gptoss bench`: measure speed here, beside a peer in equal conditions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlx_gptoss.cli.bench_serve import serve
from mlx_gptoss.cli.options import (
    LoadOptions,
    MemorySize,
    json_option,
    loads_model,
)
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.memory.plan import RESIDENT

NOTHING = "-"
HEATS = ("warm", "cold")


@click.group(short_help="Measure speed")
def bench() -> None:
    """Measure speed and memory on this machine."""


bench.add_command(serve)


@bench.command(short_help="Prefill and decode speed")
@loads_model
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
    help="Tokens decoded behind each prompt",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are their medians",
)
@json_option
@pass_services
def decode(
    services: Services,
    *,
    options: LoadOptions,
    as_json: bool,
    **measured: Any,
) -> None:
    """Measure prefill, decode, loading and memory.

    With `--against mlx-lm` stock mlx-lm reads the same folder in its own process, with
    the same dtype and BLAS; a third column is mlx-lm as shipped. Ratios above 1 say
    that mlx_gptoss is faster.
    """
    from mlx_gptoss.bench.decode import bench_decode

    folder = services.find(options.named_model(), options)
    found = bench_decode(
        folder,
        dtype=options.dtype,
        memory=options.memory,
        experts=options.experts,
        trace=options.trace,
        context=options.context,
        strict=options.strict,
        progress=note,
        **measured,
    )
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else _table(found))


@bench.command(short_help="What each turn of a conversation reads again")
@loads_model
@click.option(
    "--against",
    type=click.Choice(["mlx-lm"]),
    help="Also measure a peer's server on the same folder and prompts",
)
@click.option(
    "--turns",
    type=click.IntRange(min=3),
    default=10,
    show_default=True,
    help="Turns of the conversation; every third one calls a tool",
)
@click.option(
    "--system-tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Length of the system block, about",
)
@click.option(
    "--restart-tokens",
    type=click.IntRange(min=0),
    default=8192,
    show_default=True,
    help="Length of a prompt to load from disk after a restart; 0 for none",
)
@json_option
@pass_services
def turns(
    services: Services,
    *,
    options: LoadOptions,
    system_tokens: int,
    as_json: bool,
    **measured: Any,
) -> None:
    """Measure a long conversation: tokens read again, time to the first token.

    Back to back, the last answer has to be read as history shows it, without its
    reasoning, and the new message; with time to read ahead, the new message alone.
    """
    from mlx_gptoss.bench.turn_script import Lengths
    from mlx_gptoss.bench.turns import bench_turns

    folder = services.find(options.named_model(), options)
    found = bench_turns(
        folder,
        dtype=options.dtype,
        lengths=Lengths(system=system_tokens),
        progress=note,
        **measured,
    )
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else turns_table(found))


@bench.command(short_help="What constraining costs")
@loads_model
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Tokens of the prompt",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Tokens decoded behind it",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Alternating rounds; the fastest tenth is compared",
)
@json_option
@pass_services
def constrain(
    services: Services, *, options: LoadOptions, as_json: bool, **measured: Any
) -> None:
    """Measure free text decoded with a guide and without.

    A guide keeps headers and control tokens legal. The cost is the share of time that
    it adds to a token.
    """
    from mlx_gptoss.bench.constrain import bench_constrain

    folder = services.find(options.named_model(), options)
    found = bench_constrain(
        folder, dtype=options.dtype, memory=options.memory, progress=note, **measured
    )
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    click.echo(f"free     {found.free:9.1f} tok/s")
    click.echo(f"guided   {found.guided:9.1f} tok/s")
    click.echo(f"cost     {found.cost:9.1%}  (median of the rounds {found.paired:.1%})")
    click.echo(
        f"vocabulary of {found.vocabulary:,}; {found.model} on {found.machine}; "
        f"load average {found.load_average:.1f}"
    )


@bench.command("convert", short_help="Speed and memory of converting")
@click.option(
    "--size",
    type=MemorySize(),
    default="1GB",
    show_default=True,
    help="Size of the random checkpoint to convert, at least",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to write, three times the size. [default: the system's]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; times are their medians",
)
@json_option
def convert(size: int, folder: Path | None, rounds: int, as_json: bool) -> None:
    """Measure the converter beside a plain copy and beside mlx_lm.convert.

    Every run is a process of its own, on one disk, with the source in memory. Ratios
    above 1 say that mlx_gptoss is faster, or takes less memory.
    """
    from mlx_gptoss_convert.speed import bench_convert

    found = bench_convert(size, folder, rounds=rounds, progress=note)
    click.echo(
        json.dumps(found.as_json(), indent=2) if as_json else _conversions(found)
    )


@bench.command("experts", short_help="Loading and streaming of experts")
@click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A checkpoint with MXFP4 experts. [default: a random one, shaped like the "
    "120b, made and deleted]",
)
@click.option(
    "--layers",
    type=click.IntRange(min=2),
    default=2,
    show_default=True,
    help="Layers of the random checkpoint, of 1.7 GB each",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Interleaved rounds; figures are their medians",
)
@json_option
def experts(model: Path | None, layers: int, rounds: int, as_json: bool) -> None:
    """Measure how experts are loaded and streamed, beside mlx-lm and plain reads.

    Every run is a process of its own. Ends with how far the planner's prediction for
    this machine is off.
    """
    from mlx_gptoss.bench.experts import bench_experts

    found = bench_experts(model, layers=layers, rounds=rounds, say=note)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else _experts(found))


@bench.command("make-random", short_help="Write a random model to measure")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--size",
    type=MemorySize(),
    default="200MB",
    show_default=True,
    help="Size of the weights, at least",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise")
def make_random(folder: Path, size: int, seed: int) -> None:
    """Write a random gpt-oss in the published layout, to measure speed on.

    Its weights are noise: it cannot talk, and has no tokenizer. Prints the folder.
    """
    from mlx_gptoss.bench.random_checkpoint import write_random

    click.echo(write_random(folder, size, seed=seed))


def turns_table(found: Any) -> str:
    """One row a request: what it is, and what each side read for it in what time."""
    head = ["turn", "prompt", "answer", "new", "back to back", "after idle"]
    rows = [[*head, found.peer] if found.peer else head]
    for turn in found.turns:
        sides = [
            turn.back_to_back,
            turn.after_idle,
            *([turn.peer] if turn.peer else []),
        ]
        cells = [f"{side.read} in {side.first_token_s:.2f} s" for side in sides]
        numbers = [f"{n}" for n in (turn.prompt, turn.answer, turn.new)]
        rows.append([turn.name, *numbers, *cells])
    lines = [aligned(rows, columns=len(rows[0]))]
    lines += [found.failure] if found.failure else []
    lines += [
        f"read / (answer + new), back to back: at most {found.worst_back_to_back:.2f}",
        f"read / new, after idle: at most {found.worst_after_idle:.2f}",
    ]
    if (restart := found.restart) is not None:
        lines.append(
            f"restart with {restart.tokens:,} tokens: read in {restart.read_s:.2f} s, "
            f"from disk in {restart.load_s:.2f} s ({restart.gain:.1f}x; "
            f"{format_bytes(restart.file_bytes)})"
        )
    where = f"{found.model}, {found.dtype}, on {found.machine}"
    return "\n".join([*lines, f"{where}; load average {found.load_average:.1f}"])


def _experts(found: Any) -> str:
    size = found.runs["bytes"]
    rows = [["", "warm", "cold"]]
    rows += [
        [
            engine,
            *(f"{size / found.runs[heat][engine] / 1e9:.2f} GB/s" for heat in HEATS),
        ]
        for engine in found.runs["warm"]
    ]
    lines = [aligned(rows, columns=3), ""]
    aims = [["", "measured", "aim", ""]]
    for aim in found.aims:
        sign = ">=" if aim.at_least else "<="
        verdict = "reached" if aim.reached else "missed"
        value, bound = (f"{x:.4g} {aim.unit}" for x in (aim.value, aim.bound))
        aims.append([aim.name, value, f"{sign} {bound}", verdict])
    lines.append(aligned(aims, columns=4))
    guess = found.runs["prediction"]
    lines += [
        "",
        f"predicted {guess['predicted']['expected']:.2f} tok/s "
        f"({guess['predicted']['low']:.2f} to {guess['predicted']['high']:.2f}), "
        f"measured {guess['measured']:.2f}: off by {guess['error']:+.0%}",
        f"{found.model} on {found.machine}; load average {found.load_average:.1f}",
    ]
    return "\n".join(lines)


def _conversions(found: Any) -> str:
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
    if found.peer_ratios is not None:
        times, peaks = found.peer_ratios
        lines.append(f"mlx-lm / q8: {times:.2f}x the time, {peaks:.2f}x the memory")
    return "\n".join([*lines, f"from {format_bytes(found.source_bytes)}"])


def _table(found: Any) -> str:
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
        rows += [[""], *_depth_rows(columns, depth)]
    rows.append([""])
    row("peak memory", lambda c: format_bytes(c.peak_memory))
    row("peak process", lambda c: format_bytes(c.peak_rss))
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


def _depth_rows(columns: Any, depth: int) -> list[list[str]]:
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
