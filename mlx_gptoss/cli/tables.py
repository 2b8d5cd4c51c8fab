"""Tables of plain text."""

from collections.abc import Sequence


def aligned(rows: list[list[str]], *, columns: int) -> str:
    """Align cells: the first column to the left, the others to the right."""
    full = [row + [""] * (columns - len(row)) for row in rows]
    widths = [max(len(row[n]) for row in full) for n in range(columns)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in full
    )
    return "\n".join(line.rstrip() for line in lines)


def left_aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align all cells to the left; the first row names the columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
