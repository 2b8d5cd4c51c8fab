"""Tables of plain text."""


def aligned(rows: list[list[str]], *, columns: int) -> str:
    """Align cells: the first column to the left, the others to the right."""
    full = [row + [""] * (columns - len(row)) for row in rows]
    widths = [max(len(row[n]) for row in full) for n in range(columns)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in full
    )
    return "\n".join(line.rstrip() for line in lines)
