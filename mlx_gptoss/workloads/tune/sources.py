"""The files of a corpus, read row by row: lines of JSON, or portions of text.

    sources = Sources.of(Path("chats.jsonl"), portion=8192)
    for stored, data in sources.rows(): ...           # a StoredRow, and its bytes
    sources.example(stored, data, settings)           # what the bytes say
    sources.read(stored)                              # the bytes again, by position

Nothing is kept but positions, so a file may be larger than the memory. A portion of
text ends at the end of a line or a word; none is longer than `portion` bytes.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mlx_gptoss.errors import ExamplesError, PromptError
from mlx_gptoss.workloads.tune.examples import PlainExample, TrainingExample
from mlx_gptoss.workloads.tune.row_forms import read_example
from mlx_gptoss.workloads.tune.settings import CorpusSettings

ROW_FILES = (".jsonl", ".ndjson", ".json")
TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zip", ".zst", ".xz", ".bz2")
TRAIN_FILE, VALID_FILE = "train.jsonl", "valid.jsonl"  # in a folder, as mlx-lm's
LONGEST_ROW = 2**26  # bytes
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class StoredRow(NamedTuple):
    """The place of a row: its file's number, bytes within it, and its line from 1."""

    file: int
    offset: int
    size: int
    line: int


class UnreadableRow(Exception):
    """A row cannot be read: the message says why and what to do."""


class Sources:
    """Some files, each of rows or of text."""

    def __init__(self, files: Sequence[Path], *, portion: int) -> None:
        self.files = tuple(files)
        self.portion = portion
        self.sizes = tuple(file.stat().st_size for file in files)

    @classmethod
    def of(cls, path: Path, *, portion: int) -> "Sources":
        """Find the files of a path. Raises ExamplesError if there are none."""
        if not path.is_dir():
            return cls([_checked(path)], portion=portion)
        if (path / TRAIN_FILE).is_file():
            return cls([path / TRAIN_FILE], portion=portion)
        files = [
            found
            for found in sorted(path.rglob("*"))
            if found.is_file()
            and not any(part.startswith(".") for part in found.relative_to(path).parts)
        ]
        if not files:
            raise ExamplesError([f"`{path}` has no files: give JSONL or text"])
        return cls(list(map(_checked, files)), portion=portion)

    @property
    def total(self) -> int:
        """All bytes of the files."""
        return sum(self.sizes)

    def where(self, row: StoredRow) -> str:
        """Name a row by its file and line."""
        return f"{self.files[row.file]}:{row.line}"

    def is_text(self, file: int) -> bool:
        return self.files[file].suffix.lower() not in ROW_FILES

    def rows(self) -> Iterator[tuple[StoredRow, bytes | UnreadableRow]]:
        """Yield all rows in order; instead of the bytes, why they cannot be read."""
        for number in range(len(self.files)):
            read = self._portions if self.is_text(number) else self._lines
            yield from read(number)

    def read(self, row: StoredRow) -> bytes:
        """Read the bytes of a row again; raises ExamplesError if they are gone."""
        with self.files[row.file].open("rb") as file:
            data = os.pread(file.fileno(), row.size, row.offset)
        if len(data) != row.size:
            raise ExamplesError([changed(self.where(row))])
        return data

    def example(
        self, row: StoredRow, data: bytes, settings: CorpusSettings
    ) -> TrainingExample | PlainExample:
        """Read the example in the bytes of a row. Raises PromptError without place."""
        if not self.is_text(row.file):
            return read_example(_json(data, first=row.line == 1), settings)
        if b"\0" in data:
            raise PromptError("is no text: leave the file out")
        ends = row.offset + row.size == self.sizes[row.file]
        return PlainExample("", _decoded(data), ends=ends)

    def _lines(self, number: int) -> Iterator[tuple[StoredRow, bytes | UnreadableRow]]:
        offset, line = 0, 0
        with self.files[number].open("rb") as file:
            while data := file.readline(LONGEST_ROW + 1):
                line += 1
                stored = StoredRow(number, offset, len(data), line)
                if len(data) > LONGEST_ROW:
                    yield (
                        stored,
                        UnreadableRow(
                            f"is longer than {LONGEST_ROW:,} bytes: write one example "
                            "a line"
                        ),
                    )
                    return
                if data.strip():
                    yield stored, data
                offset += len(data)

    def _portions(
        self, number: int
    ) -> Iterator[tuple[StoredRow, bytes | UnreadableRow]]:
        offset, line = 0, 1
        with self.files[number].open("rb") as file:
            while data := os.pread(file.fileno(), self.portion, offset):
                if offset + len(data) < self.sizes[number]:
                    data = data[: _end_of_words(data)]
                yield StoredRow(number, offset, len(data), line), data
                offset += len(data)
                line += data.count(b"\n")


def changed(where: str) -> str:
    return f"{where} has changed since it was read: start again"


def valid_file_beside(path: Path) -> Path | None:
    """Return the validation file of a folder with the names that mlx-lm uses."""
    found = path / VALID_FILE
    named = path.is_dir() and (path / TRAIN_FILE).is_file()
    return found if named and found.is_file() else None


def _checked(path: Path) -> Path:
    """Refuse a file whose kind is neither rows nor text, with advice."""
    if not path.exists():
        raise ExamplesError([f"`{path}` does not exist: give a JSONL file or a folder"])
    if path.suffix.lower() in TABLES:
        raise ExamplesError(
            [f"`{path}` is a {path.suffix} file: write it as JSONL, one example a line"]
        )
    return path


def _json(data: bytes, *, first: bool) -> object:
    data = data.removeprefix(BYTE_ORDER_MARK) if first else data
    try:
        return json.loads(_decoded(data))
    except ValueError as error:
        one_a_line = "write one JSON object a line, for example with `jq -c`"
        raise PromptError(f"is not JSON ({error}): {one_a_line}") from error
    except RecursionError as error:
        raise PromptError("is JSON nested too deeply to be a conversation") from error


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"is not UTF-8 (byte {error.start} is invalid): convert it, for example "
            "with `iconv`"
        ) from error


def _end_of_words(data: bytes) -> int:
    """Return where to end a portion: behind a line, a word or else a character."""
    for mark, behind in ((b"\n", 1), (b" ", 0)):
        place = data.rfind(mark, len(data) // 2)
        if place >= 0:
            return place + behind
    place = len(data) - 1
    while place > 0 and data[place] & 0xC0 == 0x80:
        place -= 1
    return place or len(data)
