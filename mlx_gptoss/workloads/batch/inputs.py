"""The input of a batch, read row by row as often as needed.

    source = open_input(Path("requests.jsonl"))
    for row in source.rows(): ...       # InputRow: fields, or the problem with it
    source.digest()                     # SHA-256 of all that rows() reads

A row is a line of a `.jsonl` file (a JSON object), a row of a `.csv` or `.tsv` table
(the first has the names), a line of a `.txt` or `.log` file (`text`), or a file of a
folder (`file`, `text`). Nothing is kept but the present row, so an input may be larger
than the memory. A row that cannot be read has a problem and stops nothing.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlx_gptoss.errors import BatchError
from mlx_gptoss.workloads.batch.items import InputRow

JSON_LINES = (".jsonl", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}
LINES_OF_TEXT = (".txt", ".log")
KINDS = ", ".join((*JSON_LINES, *TABLES, *LINES_OF_TEXT))
LONGEST_ROW = 2**25  # bytes: the largest body of a request
REQUEST_FIELDS = {"custom_id", "url", "body"}  # of a line of OpenAI's Batch form
FILE, TEXT = "file", "text"


@dataclass(frozen=True)
class BatchInput:
    """An input whose kind is known.

    `columns` are the names of a table's columns, None for other kinds. With
    `has_requests` the rows are requests of OpenAI's Batch form.
    """

    path: Path
    read: Callable[[Path], Iterator[InputRow]]
    has_requests: bool = False
    columns: Sequence[str] | None = None

    def rows(self) -> Iterator[InputRow]:
        """Yield all rows in order. Raises BatchError if the input has vanished."""
        try:
            yield from self.read(self.path)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the names and bytes that `rows` reads."""
        digest = hashlib.sha256()
        try:
            for path in _files(self.path):
                if self.path.is_dir():
                    digest.update(str(path.relative_to(self.path)).encode() + b"\0")
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return digest.hexdigest()


def open_input(path: Path) -> BatchInput:
    """Find out what an input is. Raises BatchError for one that is none."""
    try:
        if path.is_dir():
            if not _files(path):
                raise BatchError(f"`{path}` has no files: give a folder of texts")
            return BatchInput(path, _files_of_text)
        suffix = path.suffix.lower()
        if suffix in TABLES:
            return BatchInput(path, _table_rows, columns=_column_names(path))
        if suffix in LINES_OF_TEXT:
            with path.open("rb"):
                return BatchInput(path, _lines_of_text)
        if suffix in JSON_LINES:
            first = next((row for row in _json_lines(path) if not row.problem), None)
            found = (
                set() if first is None else REQUEST_FIELDS.intersection(first.fields)
            )
            requests = "body" in found and len(found) > 1
            return BatchInput(path, _json_lines, has_requests=requests)
        with path.open("rb"):
            raise BatchError(
                f"`{path}` is of an unknown kind: give a folder of texts, or a file "
                f"whose name ends in {KINDS}"
            )
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BatchError:
    return BatchError(f"`{path}` cannot be read: {error.strerror or error}")


def _files(path: Path) -> list[Path]:
    """Return the file, or those in a folder and the folders in it, without hidden."""
    if not path.is_dir():
        return [path]
    return [
        found
        for found in sorted(path.rglob("*"))
        if found.is_file()
        and not any(part.startswith(".") for part in found.relative_to(path).parts)
    ]


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield the number of each line from 1, and the line; None if it is too long."""
    number = 0
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if len(line) <= LONGEST_ROW:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_ROW)
        yield number, None


def _json_lines(path: Path) -> Iterator[InputRow]:
    index = 0
    with path.open("rb") as file:
        for number, line in _lines(file):
            if line is not None and not line.strip():
                continue
            fields, problem = _json_object(line, first=number == 1)
            yield InputRow(index, f"line {number}", fields, problem)
            index += 1


def _json_object(
    line: bytes | None, *, first: bool
) -> tuple[dict[str, Any], str | None]:
    if line is None:
        return {}, _too_long()
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
        found = json.loads(text)
    except UnicodeDecodeError as error:
        return {}, f"is not UTF-8 (byte {error.start})"
    except RecursionError:
        return {}, "is nested too deeply"
    except ValueError as error:  # JSON, or a number of too many digits
        return {}, f"is not JSON: {error}"
    if not isinstance(found, dict):
        return {}, f"is not a JSON object but {type(found).__name__}"
    return found, None


def _too_long() -> str:
    return f"is longer than {LONGEST_ROW:,} bytes"


def _lines_of_text(path: Path) -> Iterator[InputRow]:
    index = 0
    with path.open("rb") as file:
        for number, line in _lines(file):
            if line is not None and not line.strip():
                continue
            text, problem = _text(line, first=number == 1)
            fields = {} if problem else {TEXT: text.rstrip("\r\n")}
            yield InputRow(index, f"line {number}", fields, problem)
            index += 1


def _text(data: bytes | None, *, first: bool = True) -> tuple[str, str | None]:
    if data is None:
        return "", _too_long()
    try:
        return data.decode("utf-8-sig" if first else "utf-8"), None
    except UnicodeDecodeError as error:
        return "", f"is not UTF-8 (byte {error.start}): convert it, or leave it out"


def _files_of_text(folder: Path) -> Iterator[InputRow]:
    for index, path in enumerate(_files(folder)):
        name = str(path.relative_to(folder))
        with path.open("rb") as file:
            data = file.read(LONGEST_ROW + 1)
        text, problem = _text(data if len(data) <= LONGEST_ROW else None)
        fields = {} if problem else {FILE: name, TEXT: text}
        yield InputRow(index, f"`{name}`", fields, problem)


def _column_names(path: Path) -> list[str]:
    """Return the names in the first row of a table. Raises BatchError."""
    with _open_table(path) as file:
        try:
            names = next(_reader(path, file), [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise BatchError(f"`{path}` is no table in UTF-8: {error}") from error
    doubled = {name for name in names if names.count(name) > 1}
    if not names or doubled or "" in names:
        what = f"has two columns `{doubled.pop()}`" if doubled else "lacks their names"
        raise BatchError(
            f"`{path}` {what}: its first row must name the columns, each once"
        )
    return names


def _table_rows(path: Path) -> Iterator[InputRow]:
    names = _column_names(path)
    with _open_table(path) as file:
        reader, index = _reader(path, file), 0
        next(reader)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield InputRow(index, f"line {reader.line_num}", problem=f"{error}")
                index += 1
                continue
            except UnicodeDecodeError as error:
                raise BatchError(
                    f"`{path}` is not UTF-8 after line {reader.line_num}: convert it "
                    f"first ({error.reason})"
                ) from error
            if cells is None:
                return
            if not any(cells):
                continue
            yield _table_row(index, reader.line_num, names, cells)
            index += 1


def _table_row(index: int, line: int, names: list[str], cells: list[str]) -> InputRow:
    where = f"line {line}"
    if len(cells) != len(names):
        problem = f"has {len(cells)} cells, and the table {len(names)} columns"
        return InputRow(index, where, problem=problem)
    return InputRow(index, where, dict(zip(names, cells, strict=True)))


def _open_table(path: Path) -> Any:
    return path.open(encoding="utf-8-sig", newline="")


def _reader(path: Path, file: Any) -> Any:
    csv.field_size_limit(LONGEST_ROW)
    return csv.reader(file, delimiter=TABLES[path.suffix.lower()], strict=True)
