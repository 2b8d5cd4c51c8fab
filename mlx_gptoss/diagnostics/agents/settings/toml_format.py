"""TOML settings: parse a text, and edit it in place.

`tomllib` parses. For edits, a scanner locates the statements: table headers, key/value
pairs and inline tables. Knows TOML, not agents.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.diagnostics.agents.settings import splicing
from mlx_gptoss.diagnostics.agents.settings.splicing import splice

KeyPath = tuple[str, ...]

TRIVIA = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
SPACE = re.compile(r"[ \t]*")
STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
BARE = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]*|[^\s,\]}#]+")  # dates, numbers
NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass
class TomlTable:
    """A table: by a header, inline, or the root table."""

    names: KeyPath
    start: int  # of the header or the opening brace
    end: int  # after the header, or at the closing brace
    inline: bool = False
    array_item: bool = False  # [[name]]
    pairs: list["TomlPair"] = field(default_factory=list)


@dataclass
class TomlPair:
    """`name = value`: its key path from the root, and the positions of its parts."""

    names: KeyPath
    table: TomlTable
    start: int
    value: int
    end: int

    def gives(self, names: KeyPath) -> bool:
        """Whether its dotted key defines the table `names`."""
        above = self.names[:-1]
        return len(self.table.names) < len(names) and above[: len(names)] == names


def read(text: str) -> Any:
    """Parse the text. Raises ValueError."""
    return tomllib.loads(text)


def put(text: str, path: Sequence[Any], value: Any) -> str:
    """Set the value at `path`, in the style of the text around it."""
    names, tables = tuple(path), _tables(text)
    for pair in _pairs(tables):
        if pair.names == names:
            return splice(text, pair.value, pair.end, _value(value))
    for count in range(len(names) - 1, 0, -1):
        above = names[:count]
        for table in tables:
            if table.inline and table.names == above:
                return _into_braces(text, table, _set(names[count:], value))
        beside = [pair for pair in _pairs(tables) if pair.gives(above)]
        if beside:
            return _beside(text, beside[-1], names, value)
        for table in tables:
            if table.names == above and not table.array_item and not table.inline:
                if isinstance(value, dict) or len(names) - count > 1:
                    return _new_table(text, names, value)
                return _into_section(text, table, _set(names[count:], value))
    if len(names) == 1 and not isinstance(value, dict):
        return _into_root(text, tables, _set(names, value))
    return _new_table(text, names, value)


def drop(text: str, path: Sequence[Any]) -> str:
    """Delete the pair at `path`, with its line and comment."""
    (pair,) = (pair for pair in _pairs(_tables(text)) if pair.names == tuple(path))
    if not pair.table.inline:
        start = splicing.line_start(text, pair.start)
        end = text.find("\n", pair.end) + 1 or len(text)
        return splice(text, start, end, "")
    others = pair.table.pairs
    number = others.index(pair)
    if number:
        return splice(text, others[number - 1].end, pair.end, "")
    end = others[1].start if len(others) > 1 else pair.end
    return splice(text, pair.start, end, "")


# writing


def _into_braces(text: str, table: TomlTable, statement: str) -> str:
    if table.pairs:
        end = table.pairs[-1].end
        return splice(text, end, end, f", {statement}")
    return splice(text, table.start + 1, table.end, f" {statement} ")


def _beside(text: str, pair: TomlPair, names: KeyPath, value: Any) -> str:
    """Insert dotted keys after a pair: `a.b.c = 1` after `a.b.x = 0`."""
    relative = names[len(pair.table.names) :]
    statements = [_set(relative + more, leaf) for more, leaf in _leaves(value)]
    if pair.table.inline:
        return splice(text, pair.end, pair.end, ", " + ", ".join(statements))
    return _behind(text, pair, statements)


def _into_section(text: str, table: TomlTable, statement: str) -> str:
    if table.pairs:
        return _behind(text, table.pairs[-1], [statement])
    end = splicing.line_end(text, table.end)
    line = splicing.line_ending(text) + splicing.indentation(text, table.start)
    return splice(text, end, end, line + statement)


def _behind(text: str, pair: TomlPair, statements: Sequence[str]) -> str:
    end = splicing.line_end(text, pair.end)
    line = splicing.line_ending(text) + splicing.indentation(text, pair.start)
    return splice(text, end, end, "".join(line + one for one in statements))


def _into_root(text: str, tables: Sequence[TomlTable], statement: str) -> str:
    root, line = tables[0], splicing.line_ending(text)
    if root.pairs:
        return _behind(text, root.pairs[-1], [statement])
    headers = [table for table in tables[1:] if not table.inline]
    if not headers:
        return splicing.end_last_line(text) + statement + line
    at = _above(text, headers[0])
    return splice(text, at, at, statement + line + line)


def _above(text: str, header: TomlTable) -> int:
    """Return the start of a header, including the comment right above it."""
    at = splicing.line_start(text, header.start)
    while at > 0:
        above = splicing.line_start(text, at - 1)
        said = text[above:at].strip()
        if not said.startswith("#") or said.startswith(
            "#:"
        ):  # `#:schema` belongs to the file
            break
        at = above
    return at


def _new_table(text: str, names: KeyPath, value: Any) -> str:
    if not isinstance(value, dict):
        names, value = names[:-1], {names[-1]: value}
    for more, pairs in _sections(value):
        line = splicing.line_ending(text)
        text = splicing.end_last_line(text)
        space = line if text and not text.endswith(line + line) else ""
        statements = "".join(_set((name,), leaf) + line for name, leaf in pairs)
        text += f"{space}[{_dotted(names + more)}]{line}{statements}"
    return text


def _sections(value: dict[str, Any]) -> Iterator[tuple[KeyPath, list[tuple[str, Any]]]]:
    """Yield the tables within a value, each with its pairs that are not tables."""
    pairs = [(name, leaf) for name, leaf in value.items() if not isinstance(leaf, dict)]
    if pairs or not value:
        yield (), pairs
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from (((name, *more), found) for more, found in _sections(inner))


def _leaves(value: Any) -> Iterator[tuple[KeyPath, Any]]:
    if not isinstance(value, dict):
        yield (), value
        return
    for name, inner in value.items():
        yield from (((name, *more), leaf) for more, leaf in _leaves(inner))


def _set(names: KeyPath, value: Any) -> str:
    return f"{_dotted(names)} = {_value(value)}"


def _dotted(names: KeyPath) -> str:
    return ".".join(name if NAME.fullmatch(name) else _value(name) for name in names)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_set((n,), v) for n, v in value.items()) + " }"
    # Strings, numbers, booleans and lists of them are written as in JSON.
    return splicing.quote(value)


# reading


def _pairs(tables: Sequence[TomlTable]) -> Iterator[TomlPair]:
    for table in tables:
        yield from table.pairs


def _tables(text: str) -> list[TomlTable]:
    """Locate all tables of a text, the root first. Raises ValueError."""
    read(text)  # the scanner relies on valid TOML
    tables = [TomlTable((), 0, 0)]
    section, at = tables[0], _skip(TRIVIA, text, 0)
    while at < len(text):
        if text[at] == "[":
            many = text[at : at + 2] == "[["
            names, end = _names(text, at + 1 + many)
            section = TomlTable(names, at, end + 1 + many, array_item=many)
            tables.append(section)
            at = section.end
        else:
            at = _pair(text, at, section, tables)
        at = _skip(TRIVIA, text, at)
    return tables


def _pair(text: str, start: int, table: TomlTable, tables: list[TomlTable]) -> int:
    names, equals = _names(text, start)
    value = _skip(SPACE, text, equals + 1)
    pair = TomlPair(table.names + names, table, start, value, value)
    table.pairs.append(pair)
    pair.end = _end(text, value, pair.names, tables)
    return pair.end


def _names(text: str, at: int) -> tuple[KeyPath, int]:
    """Scan a dotted key; return its names and the position after it."""
    start, names = at, 0
    while True:
        at = _skip(SPACE, text, at)
        at = _skip(STRING if text[at] in "\"'" else NAME, text, at)
        end = _skip(SPACE, text, at)
        names += 1
        if text[end] != ".":
            break
        at = end + 1
    inner: Any = tomllib.loads(f"{text[start:end]} = 0")
    found: list[str] = []
    for _ in range(names):
        ((name, inner),) = inner.items()
        found.append(name)
    return tuple(found), end


def _end(text: str, at: int, names: KeyPath, tables: list[TomlTable]) -> int:
    """Return the end of a value; add inline tables, named `names`, to `tables`."""
    opened = text[at]
    if opened in "\"'":
        return _skip(STRING, text, at)
    if opened == "{":
        table = TomlTable(names, at, at, inline=True)
        tables.append(table)
        at = _skip(TRIVIA, text, at + 1)
        while text[at] != "}":
            at = _skip(TRIVIA, text, _pair(text, at, table, tables))
            if text[at] == ",":
                at = _skip(TRIVIA, text, at + 1)
        table.end = at
        return at + 1
    if opened == "[":
        at = _skip(TRIVIA, text, at + 1)
        while text[at] != "]":
            # Items of arrays have no key path.
            at = _skip(TRIVIA, text, _end(text, at, ("[]",), []))
            if text[at] == ",":
                at = _skip(TRIVIA, text, at + 1)
        return at + 1
    return _skip(BARE, text, at)


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
