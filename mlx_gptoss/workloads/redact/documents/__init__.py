"""Documents as units: the fields that are masked in a file, and how they are put back.

A unit is what can be written once its fields are masked: a whole text, a JSON document,
a line of JSONL, a row of a table. All else of the file stays as it is, byte for byte.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from mlx_gptoss.errors import RedactionError
from mlx_gptoss.workloads.redact.documents.json_values import json_lines, json_unit
from mlx_gptoss.workloads.redact.documents.tables import table_units
from mlx_gptoss.workloads.redact.documents.units import Unit, text_unit

Reader = Callable[[str], Iterator[Unit]]
FORMATS: dict[str, Reader] = {
    "text": lambda text: iter([text_unit(text)]),
    "json": lambda text: iter([json_unit(text)]),
    "jsonl": json_lines,
    "csv": table_units,
}
ENDINGS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
}
BYTES_SEEN = 8192  # to tell text from other files


def format_of(path: Path) -> str:
    """Return the format that a file's name says; `text` for all others."""
    return ENDINGS.get(path.suffix.lower(), "text")


def read_units(text: str, kind: str, name: str) -> Iterator[Unit]:
    """Yield the units of a text. Raises RedactionError, which names the file."""
    try:
        yield from FORMATS[kind](text)
    except RedactionError as error:
        raise RedactionError(f"`{name}` {error}") from error


def decode(data: bytes, name: str) -> str:
    """Return the text of a file. Raises RedactionError if it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RedactionError(
            f"`{name}` is not UTF-8 at byte {error.start:,}: convert it first, with "
            "`iconv -t UTF-8` for example"
        ) from error


def is_text(path: Path) -> bool:
    """Whether the beginning of a file is UTF-8 without NUL bytes."""
    with path.open("rb") as file:
        data = file.read(BYTES_SEEN)
    if b"\0" in data:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character may be cut by the end of what was read.
        return error.start > len(data) - 4 and len(data) == BYTES_SEEN
    return True


__all__ = ["ENDINGS", "FORMATS", "Unit", "decode", "format_of", "is_text", "read_units"]
