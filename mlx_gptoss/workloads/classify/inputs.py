"""The texts to judge: files as they are, rows of JSONL and tables, folders, stdin.

    texts = open_texts([Path("letters"), Path("comments.csv")], field="comment")
    for row in texts.rows(): ...        # InputRow: `text` is in its fields

Tables and lines of JSON are read as by `batch`; any other file is one text. Rows of
all files are numbered through.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_gptoss.errors import BatchError
from mlx_gptoss.workloads.batch.inputs import (
    FILE,
    JSON_LINES,
    LONGEST_ROW,
    TABLES,
    TEXT,
    BatchInput,
    open_input,
)
from mlx_gptoss.workloads.batch.items import InputRow

STDIN = Path("-")


@dataclass(frozen=True)
class TextRows:
    """TextRows that can be read as often as needed.

    `field` is the one that has the text. `columns` are those of the only table, None
    for other inputs.
    """

    sources: Sequence[BatchInput]
    field: str | None = None

    def rows(self) -> Iterator[InputRow]:
        """Yield the rows of all inputs, each with its text as a field `text`.

        Raises BatchError if an input has vanished.
        """
        index = 0
        for source in self.sources:
            for row in source.rows():
                where = row.where
                if len(self.sources) > 1 and source.path != STDIN:
                    where = f"`{source.path}` {where}"
                yield replace(self._with_text(row), index=index, where=where)
                index += 1

    def text_of(self, row: InputRow) -> str:
        """Return the text of a row that has no problem."""
        return str(row.fields[self._field_of(row) or TEXT])

    def digest(self) -> str:
        """Return the SHA-256 (hex) of everything `rows` reads."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(f"{source.digest()} {self.field}\n".encode())
        return digest.hexdigest()

    @property
    def columns(self) -> list[str] | None:
        """The columns of a table of the rows; None where rows have others each."""
        found = [source.columns for source in self.sources]
        if None in found:
            return [FILE, TEXT] if all(one is None for one in found) else None
        return list(found[0] or ()) if all(one == found[0] for one in found) else None

    def _field_of(self, row: InputRow) -> str | None:
        """Return the field that has the text of a row, None if there is none."""
        if self.field is not None:
            return self.field if self.field in row.fields else None
        if TEXT in row.fields:
            return TEXT
        return next(iter(row.fields)) if len(row.fields) == 1 else None

    def _with_text(self, row: InputRow) -> InputRow:
        if row.problem is not None:
            return row
        name = self._field_of(row)
        if name is None:
            known = ", ".join(f"`{one}`" for one in row.fields) or "none"
            wanted = self.field or TEXT
            problem = f"has no field `{wanted}`, it has {known}: name one with --field"
            return replace(row, problem=problem)
        if not isinstance(row.fields[name], str):
            return replace(row, problem=f"has no text in its field `{name}`")
        return row


def open_texts(
    paths: Sequence[Path],
    *,
    field: str | None = None,
    lines: bool = False,
    stdin: Callable[[], bytes] | None = None,
) -> TextRows:
    """Find out what the inputs are. `-` reads `stdin`, once.

    With `lines`, each line of a text is a text of its own. Raises BatchError for an
    input that is none.
    """
    return TextRows([_open(path, lines=lines, stdin=stdin) for path in paths], field)


def _open(path: Path, *, lines: bool, stdin: Callable[[], bytes] | None) -> BatchInput:
    if path == STDIN:
        data = b"" if stdin is None else stdin()
        return _Given(path, lambda _: _texts(data, "stdin", lines=lines), data=data)
    if path.is_dir() or path.suffix.lower() in (*JSON_LINES, *TABLES):
        return open_input(path)

    def read(path: Path) -> Iterator[InputRow]:
        with path.open("rb") as file:
            data = file.read(LONGEST_ROW + 1)
        yield from _texts(data, str(path), lines=lines)

    source = BatchInput(path, read)
    next(source.rows(), None)  # refuse it before a model is loaded
    return source


@dataclass(frozen=True)
class _Given(BatchInput):
    """Bytes that were read already."""

    data: bytes = b""

    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def _texts(data: bytes, name: str, *, lines: bool) -> Iterator[InputRow]:
    """Yield the text of a file, or each of its lines."""
    where = name if name == "stdin" else f"`{name}`"
    if len(data) > LONGEST_ROW:
        problem = f"is longer than {LONGEST_ROW:,} bytes"
        yield InputRow(0, where, problem=problem)
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start}): convert it, or leave it out"
        yield InputRow(0, where, problem=problem)
        return
    if not text.strip():
        return
    if not lines:
        yield InputRow(0, where, {FILE: name, TEXT: text})
        return
    index = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield InputRow(index, f"{where} line {number}", {FILE: name, TEXT: line})
            index += 1


def require_texts(texts: TextRows) -> None:
    """Raise BatchError if there is no text at all."""
    if next(texts.rows(), None) is None:
        names = ", ".join(f"`{source.path}`" for source in texts.sources)
        raise BatchError(f"{names} has no texts: there is nothing to judge")
