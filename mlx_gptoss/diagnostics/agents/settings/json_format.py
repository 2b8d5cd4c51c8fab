"""JSON settings: parse a text, and edit it in place.

Comments and trailing commas are accepted, as in VS Code and opencode (`.jsonc`). Knows
JSON, not agents.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from mlx_gptoss.diagnostics.agents.settings import splicing
from mlx_gptoss.diagnostics.agents.settings.splicing import splice

TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
LINE_COMMENTS = re.compile(r"(?:[ \t]*/\*[^\n]*?\*/)*(?:[ \t]*//[^\r\n]*)?")
LONGEST_INT = 4000  # digits; Python limits the conversion of longer ones


@dataclass
class JsonNode:
    """A value and its position; `comma` is the end of a trailing comma."""

    start: int
    end: int = 0
    value: Any = None
    members: dict[str, "JsonNode"] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    comma: int | None = None


def read(text: str) -> Any:
    """Parse the text; an empty one has no settings. Raises ValueError."""
    root = _root(text)
    return {} if root is None else root.value


def put(text: str, path: Sequence[str], value: Any) -> str:
    """Set the value at `path`, whose table must exist."""
    node = _root(text)
    if node is None:
        text = splicing.end_last_line(text) + "{}" + splicing.line_ending(text)
        node = _root(text)
    assert node is not None
    for name in path[:-1]:
        node = node.members[name]
    name = path[-1]
    if name not in node.members:
        return _add(text, node, name, value)
    old, key = node.members[name], node.keys[name]
    broken = splicing.begins_line(text, key)
    return splice(text, old.start, old.end, _dump(text, value, key, broken))


def _add(text: str, table: JsonNode, name: str, value: Any) -> str:
    key = json.dumps(name, ensure_ascii=False)
    if not table.members:
        return _add_first(text, table, key, value)
    last, last_key = list(table.members)[-1], list(table.keys.values())[-1]
    end = table.members[last].end
    after = table.comma or end
    broken = splicing.begins_line(text, last_key)
    piece = f"{key}: {_dump(text, value, last_key, broken)}"
    if broken:
        piece = (
            splicing.line_ending(text) + splicing.indentation(text, last_key) + piece
        )
    else:
        piece = " " + piece
    if broken and (found := LINE_COMMENTS.match(text, after)):
        at = found.end()
    else:
        at = after
    text = splice(text, at, at, piece + ("," if table.comma else ""))
    return text if table.comma else splice(text, end, end, ",")


def _add_first(text: str, table: JsonNode, key: str, value: Any) -> str:
    inside = table.start + 1
    root = table.start == _skip(text, 0)
    if not root and "\n" not in text.strip():
        dumped = json.dumps(value, ensure_ascii=False)
        return splice(text, inside, inside, f"{key}: {dumped}")
    line, outer = splicing.line_ending(text), splicing.indentation(text, table.start)
    inner = outer + splicing.indent_step(text)
    dumped = _dump_indented(value, splicing.indent_step(text), line + inner)
    closing = "" if "\n" in text[inside : table.end] else line + outer
    return splice(text, inside, inside, f"{line}{inner}{key}: {dumped}{closing}")


def _dump(text: str, value: Any, at: int, broken: bool) -> str:
    if not broken:
        return json.dumps(value, ensure_ascii=False)
    line = splicing.line_ending(text) + splicing.indentation(text, at)
    return _dump_indented(value, splicing.indent_step(text), line)


def _dump_indented(value: Any, unit: str, line: str) -> str:
    return json.dumps(value, ensure_ascii=False, indent=unit).replace("\n", line)


# reading


def _root(text: str) -> JsonNode | None:
    at = _skip(text, 0)
    if at == len(text):
        return None
    node = _value(text, at)
    if (rest := _skip(text, node.end)) != len(text):
        raise json.JSONDecodeError("unexpected text after the settings", text, rest)
    return node


def _value(text: str, at: int) -> JsonNode:
    opened = text[at : at + 1]
    if opened == "{":
        return _table(text, at)
    if opened == "[":
        return _list(text, at)
    value, end = SCALARS.raw_decode(text, at)
    return JsonNode(at, end, value)


def _table(text: str, start: int) -> JsonNode:
    node = JsonNode(start, value={})
    at = _skip(text, start + 1)
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("a name in quotes was expected", text, at)
        name, end = SCALARS.raw_decode(text, at)
        if name in node.members:
            raise ValueError(f"`{name}` occurs twice")
        colon = _skip(text, end)
        if text[colon : colon + 1] != ":":
            raise json.JSONDecodeError("`:` was expected", text, colon)
        found = _value(text, _skip(text, colon + 1))
        node.keys[name], node.members[name] = at, found
        node.value[name] = found.value
        at = _next(text, node, found.end, "}")
    node.end = at + 1
    return node


def _list(text: str, start: int) -> JsonNode:
    node = JsonNode(start, value=[])
    at = _skip(text, start + 1)
    while text[at : at + 1] != "]":
        found = _value(text, at)
        node.value.append(found.value)
        at = _next(text, node, found.end, "]")
    node.end = at + 1
    return node


def _next(text: str, node: JsonNode, end: int, closing: str) -> int:
    """Return the position of the next item, or of the closing bracket of `node`."""
    at = _skip(text, end)
    node.comma = None
    if text[at : at + 1] == ",":
        node.comma = at + 1
        return _skip(text, at + 1)
    if text[at : at + 1] != closing:
        raise json.JSONDecodeError(f"`,` or `{closing}` was expected", text, at)
    return at


def _skip(text: str, at: int) -> int:
    found = TRIVIA.match(text, at)
    return found.end() if found else at


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < LONGEST_INT else Decimal(digits)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


SCALARS = json.JSONDecoder(parse_constant=_refuse, parse_int=_integer)
