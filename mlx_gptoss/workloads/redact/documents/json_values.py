"""The values of JSON: strings, and whole numbers of some length; never its keys.

The model reads a value behind its key, which is a clue: `phone: 5550123`. Only the
values that are masked are written anew.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlx_gptoss.errors import RedactionError
from mlx_gptoss.workloads.redact.documents.units import Unit, Value
from mlx_gptoss.workloads.redact.redactor import Field

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+\-]*|[{}\[\],]')
IS_KEY = re.compile(r"[ \t\r\n]*:")
LONG_NUMBER = re.compile(r"-?\d{6,}")  # shorter ones are no account of anybody
BOM = "\ufeff"


class JsonValue(NamedTuple):
    """A value in the text of a document, `text[start:end]`."""

    start: int
    end: int
    field: Field
    place: str


def json_unit(text: str, first_line: int = 1) -> Unit:
    """Return a JSON document as a unit. Raises RedactionError if it is none."""
    try:
        json.loads(text.removeprefix(BOM))
    except (ValueError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        what = getattr(error, "msg", "it is nested too deeply")
        raise RedactionError(
            f"is no JSON in line {line:,} ({what}): mend it, or mask it as text with "
            "`--format text`"
        ) from error
    found = tuple(_literals(text))

    def render(values: Sequence[Value]) -> str:
        pieces, place = [], 0
        for literal, value in zip(found, values, strict=True):
            pieces += [text[place : literal.start], _written(text, literal, value)]
            place = literal.end
        return "".join([*pieces, text[place:]])

    return Unit(
        tuple(one.field for one in found), tuple(one.place for one in found), render
    )


def json_lines(text: str) -> Iterator[Unit]:
    """Yield the lines of JSONL; empty ones stay."""
    *lines, last = text.split("\n")
    for number, line in enumerate(lines, start=1):
        yield _line_unit(line, "\n", number)
    if last:
        yield _line_unit(last, "", len(lines) + 1)


def _line_unit(line: str, ending: str, number: int) -> Unit:
    if not line.strip(BOM + " \t\r"):
        return Unit((), (), lambda _: line + ending)
    unit = json_unit(line, number)
    places = tuple(f"line {number}{place}" for place in unit.places)
    return Unit(unit.fields, places, lambda values: unit.render(values) + ending)


def _literals(text: str) -> Iterator[JsonValue]:
    """Yield the values of valid JSON that may be masked, in order."""
    keys: list[str | int] = []  # the place: a key in each object, a number in each list
    for match in TOKEN.finditer(text):
        token = match[0]
        if token in "{[":
            keys.append("" if token == "{" else 0)
        elif token in "}]":
            keys.pop()
        elif token == ",":
            if isinstance(keys[-1], int):
                keys[-1] += 1
        elif token[0] != '"':
            if LONG_NUMBER.fullmatch(token):
                field = Field(token, _clue(keys), is_number=True)
                yield JsonValue(*match.span(), field, _pointer(keys))
        elif keys and isinstance(keys[-1], str) and IS_KEY.match(text, match.end()):
            keys[-1] = json.loads(token)
        else:
            field = Field(json.loads(token, strict=False), _clue(keys))
            yield JsonValue(*match.span(), field, _pointer(keys))


def _clue(keys: Sequence[str | int]) -> str:
    """Return the nearest key, as a line that the value ends."""
    name = next((key for key in reversed(keys) if isinstance(key, str)), "")
    return f"{name}: " if name else ""


def _pointer(keys: Sequence[str | int]) -> str:
    """Return a JSON pointer (RFC 6901)."""
    parts = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    return "".join(f"/{part}" for part in parts)


def _written(text: str, literal: JsonValue, value: Value) -> str:
    before = text[literal.start : literal.end]
    if value.text == literal.field.text and value.is_number == literal.field.is_number:
        return before
    if value.is_number:
        return value.text
    escaped = before.isascii() and not literal.field.text.isascii()
    return json.dumps(value.text, ensure_ascii=escaped)
