"""Tables that `mlx-gptoss bench` prints."""

from collections.abc import Callable
from typing import Any

from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.memory.plan import RESIDENT

NOTHING = "-"
HEATS = ("warm", "cold")


def turns_table(found: Any) -> str:
    """Return one row per request: tokens each side prefilled, and the time it took."""
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


def experts_table(found: Any) -> str:
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
