"""Tables that `mlx-gptoss bench` prints."""

from statistics import median
from typing import Any

from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.memory import format_bytes

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
    if ratios := found.first_token_ratios:
        lines.append(
            f"mlx_gptoss / {found.peer}, first token from the second turn on, back to "
            f"back: {median(ratios):.2f}x, at most {max(ratios):.2f}x of its time"
        )
    if (restart := found.restart) is not None:
        lines.append(
            f"restart with {restart.tokens:,} tokens: read in {restart.read_s:.2f} s, "
            f"from disk in {restart.load_s:.2f} s ({restart.gain:.1f}x; "
            f"{format_bytes(restart.file_bytes)})"
        )
    where = f"{found.model}, {found.dtype}, on {found.machine}"
    return "\n".join([*lines, f"{where}; load average {found.load_average:.1f}"])


def constrain_table(found: Any) -> str:
    """Return the speed without and with a guide, and the cost."""
    return "\n".join(
        [
            f"free     {found.free:9.1f} tok/s",
            f"guided   {found.guided:9.1f} tok/s",
            f"cost     {found.cost:9.1%}  (median of the rounds {found.paired:.1%})",
            f"vocabulary of {found.vocabulary:,}; {found.model} on {found.machine}; "
            f"load average {found.load_average:.1f}",
        ]
    )


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
