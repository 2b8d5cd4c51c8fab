"""The cells of CSV and TSV. The first row names columns, and is masked like any other.

The model reads a cell behind its column's name, which is a clue. Only rows in which
something is masked are written anew.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from mlx_gptoss.errors import RedactionError
from mlx_gptoss.workloads.redact.documents.units import Unit, Value
from mlx_gptoss.workloads.redact.redactor import Field

DELIMITERS = ",;\t|"
LONGEST_CELL = 2**31 - 1  # the library's own limit is 128 kB
ENDS = ("\r\n", "\n", "\r")


class _Lines:
    """Hands out lines, and keeps those since the last row."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="")
        self.raw = ""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.raw += line
        return line

    def take(self) -> str:
        """Return the text of the row that was read last."""
        raw, self.raw = self.raw, ""
        return raw


def table_units(text: str) -> Iterator[Unit]:
    """Yield the rows of a table. Raises RedactionError for one that is none."""
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    csv.field_size_limit(LONGEST_CELL)
    lines = _Lines(text)
    names: list[str] = []
    rows = csv.reader(lines, delimiter=delimiter, strict=False)
    for number, row in enumerate(_read(rows), start=1):
        yield _row_unit(row, lines.take(), number, names, delimiter)
        names = names or row


def _read(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    iterator = iter(rows)
    number = 0
    while True:
        number += 1
        try:
            yield next(iterator)
        except StopIteration:
            return
        except csv.Error as error:
            raise RedactionError(
                f"has no row of a table as row {number:,} ({error}): mask it as text "
                "with `--format text`"
            ) from error


def _row_unit(
    row: Sequence[str], raw: str, number: int, names: Sequence[str], delimiter: str
) -> Unit:
    columns = [names[place] if place < len(names) else "" for place in range(len(row))]
    fields = tuple(
        Field(cell, f"{name}: " if name else "")
        for cell, name in zip(row, columns, strict=True)
    )
    places = tuple(
        f"row {number}, column {name or place}"
        for place, name in enumerate(columns, start=1)
    )
    ending = next((end for end in ENDS if raw.endswith(end)), "")

    def render(values: Sequence[Value]) -> str:
        cells = [value.text for value in values]
        if cells == list(row):
            return raw
        written = io.StringIO(newline="")
        csv.writer(written, delimiter=delimiter, lineterminator=ending).writerow(cells)
        return written.getvalue()

    return Unit(fields, places, render)
