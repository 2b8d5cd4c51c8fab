"""YAML settings: parse a text, and edit it in place.

`ruamel.yaml` parses, and its events give the position of each value; new values follow
the layout of the text around them. Knows YAML, not agents.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from mlx_gptoss.diagnostics.agents.settings import splicing
from mlx_gptoss.diagnostics.agents.settings.splicing import splice

STEP = "  "
# Text that needs no quotes in both YAML 1.1 (aider) and 1.2 (Continue).
PLAIN = re.compile(r"[A-Za-z](?:[A-Za-z0-9_./()@+ -]|:(?=[^\s]))*(?<! )")
BLOCK_HEADER = re.compile(r"([|>][1-9]?)[+-]?([1-9]?)(?=[ \t\r]*(?: #.*)?\n)")
WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


@dataclass
class YamlNode:
    """A value and its position; `end` excludes trailing comments."""

    start: int
    end: int
    text: str | None = None  # of scalars
    block: bool = False  # block style, not in brackets
    keys: list["YamlNode"] = field(default_factory=list)
    items: list["YamlNode"] = field(default_factory=list)
    empty: bool = False  # an omitted value: null
    lines: bool = False  # ends with a block scalar, `|` or `>`
    anchor: str | None = None
    alias: str | None = None  # the anchor it refers to

    def number(self, name: Any) -> int | None:
        """Return the index of the item with a name, or None; an index is itself."""
        if isinstance(name, int):
            return name
        return next((n for n, key in enumerate(self.keys) if key.text == name), None)

    @property
    def hangs(self) -> bool:
        """Whether it is on lines of its own, below its key."""
        return self.block and bool(self.items)

    def walk(self) -> "Iterator[YamlNode]":
        """Yield this value and all values within it, in text order."""
        yield self
        for item in self.items:
            yield from item.walk()


def read(text: str) -> Any:
    """Parse the text; an empty one has no settings. Raises ValueError."""
    with _one_line():
        data = YAML(typ="safe", pure=True).load(text)
    return {} if data is None else data


def put(text: str, path: Sequence[Any], value: Any) -> str:
    """Set the value at `path`, whose table must exist.

    Raises ValueError if that table is an alias of another.
    """
    root = _root(text)
    if root is None or root.empty:
        return splicing.end_last_line(text) + _lines(text, {path[-1]: value}, "")
    table = _at(root, path[:-1])
    number = table.number(path[-1])
    if number is None:
        return _add(text, table, path[-1], value)
    old = table.items[number]
    if not old.empty and not old.hangs:
        return _replace(text, root, old, _flow(value))
    key = table.keys[number]
    colon = text.index(":", key.end) + 1
    if not table.block or not isinstance(value, list | dict) or not value:
        end = splicing.line_end(text, colon) if old.hangs else colon
        text = splice(text, end, max(end, old.end), "")
        return splice(text, colon, colon, " " + _flow(value))
    margin = (
        _indentation(text, old.start if old.hangs else key.start) + STEP * old.empty
    )
    lines = _lines(text, value, margin)
    end, line = splicing.line_end(text, colon), splicing.line_ending(text)
    return splice(text, end, max(end, old.end), line + lines.removesuffix(line))


def _replace(text: str, root: YamlNode, old: YamlNode, piece: str) -> str:
    """Replace a value. If it has aliases, the first of them gets the old value."""
    others = [node for node in root.walk() if node.start > old.start]
    heir = next(
        (node for node in others if node.alias and node.alias == old.anchor), None
    )
    if heir is not None:
        text = splice(text, heir.start, heir.end, text[old.start : old.end])
    stands = text[old.start : old.end].rstrip(
        "\r\n "
    )  # a block scalar includes line ends
    return splice(text, old.start, old.start + len(stands), piece)


def first(text: str, path: Sequence[Any], value: Any) -> str:
    """Insert an item at the front of the list at `path`.

    Raises ValueError if that list is an alias of another.
    """
    root = _root(text)
    assert root is not None
    found = _at(root, path)
    if not found.block:
        more = ", " if found.items else ""
        return splice(text, found.start + 1, found.start + 1, _flow(value) + more)
    dash = _dash(text, found.items[0])
    margin = _indentation(text, dash)
    lines = _lines(text, [value], margin).removeprefix(margin)
    return splice(text, dash, dash, lines + margin)


def move(text: str, path: Sequence[Any], number: int) -> str:
    """Move an item, as written, to the front of its list.

    Raises ValueError if that list is an alias of another.
    """
    root = _root(text)
    assert root is not None
    items = _at(root, path)
    item = items.items[number]
    if not items.block:
        moved = text[item.start : item.end]
        text = splice(text, items.items[number - 1].end, item.end, "")
        return splice(text, items.start + 1, items.start + 1, moved + ", ")
    start = splicing.line_start(text, _dash(text, item))
    end = _end(text, item)
    moved = text[start:end]
    if not moved.endswith("\n"):
        moved = _without_end(moved) if item.lines else moved
        moved += splicing.line_ending(text)
    top = splicing.line_start(text, _dash(text, items.items[0]))
    return splice(splice(text, start, end, ""), top, top, moved)


def _without_end(text: str) -> str:
    """Strip the final line end from the block scalar at the end of a text, by `-`."""
    header = list(BLOCK_HEADER.finditer(text))[-1]
    return splice(text, *header.span(), header.expand(r"\1-\2"))


def _dash(text: str, item: YamlNode) -> int:
    return text.rindex("-", 0, item.start + 1)


def _end(text: str, node: YamlNode) -> int:
    """Return the end of a value's last line; block scalars include it already."""
    return node.end if node.lines else text.find("\n", node.end) + 1 or len(text)


def _add(text: str, table: YamlNode, name: str, value: Any) -> str:
    if not table.block:
        at = table.items[-1].end if table.items else text.index("{", table.start) + 1
        more = ", " if table.items else ""
        return splice(text, at, at, f"{more}{_flow({name: value})[1:-1]}")
    first_key = table.keys[0].start
    margin = _indentation(text, first_key)
    lines = _lines(text, {name: value}, margin)
    if table.lines and not text[: table.end].endswith("\n"):
        # A block scalar at the end of the file: a line end would become part of it.
        return splice(text, first_key, first_key, lines[len(margin) :] + margin)
    end = _end(text, table)
    return splicing.end_last_line(text[:end]) + lines + text[end:]


def _indentation(text: str, at: int) -> str:
    """Return white space up to the column of position `at`."""
    return " " * (at - splicing.line_start(text, at))


def _lines(text: str, value: Any, margin: str) -> str:
    line = splicing.line_ending(text)
    return "".join(margin + one + line for one in _layout(value))


def _layout(value: Any) -> Iterator[str]:
    """Yield the lines of a value in block style."""
    if isinstance(value, list):
        for item in value:
            lines = list(_layout(item))
            yield "- " + lines[0]
            yield from (STEP + line for line in lines[1:])
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, list | dict) and item:
                yield _flow(name) + ":"
                yield from (STEP + line for line in _layout(item))
            else:
                yield f"{_flow(name)}: {_flow(item)}"
    else:
        yield _flow(value)


def _flow(value: Any) -> str:
    """Encode a value on one line."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, dict):
        pairs = (f"{_flow(name)}: {_flow(item)}" for name, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    plain = isinstance(value, str) and PLAIN.fullmatch(value)
    return value if plain and value.lower() not in WORDS else splicing.quote(value)


# reading


def _root(text: str) -> YamlNode | None:
    """Locate all values of a text; None if there is no document."""
    with _one_line():
        events = iter(YAML(typ="safe", pure=True).parse(text))
        for event in events:
            if isinstance(event, MappingStartEvent | SequenceStartEvent | ScalarEvent):
                return _node(event, events, text, 0)
    return None


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn the multi-line errors of `ruamel.yaml` into a one-line ValueError."""
    try:
        yield
    except YAMLError as error:
        raise ValueError(re.sub(r"\s+", " ", str(error))[:160]) from error


def _node(event: Event, events: Iterator[Event], text: str, before: int) -> YamlNode:
    """Build a value from its events; an omitted one is at `before`."""
    start, end = event.start_mark.index, event.end_mark.index
    if isinstance(event, ScalarEvent):
        if start == end:
            return YamlNode(before, before, text="", empty=True)
        node = YamlNode(start, end, text=event.value, anchor=event.anchor)
        node.lines = event.style in ("|", ">")
        return node
    if not isinstance(event, MappingStartEvent | SequenceStartEvent):
        return YamlNode(start, end, alias=getattr(event, "anchor", None))
    node = YamlNode(start, end, block=not event.flow_style, anchor=event.anchor)
    pairs = isinstance(event, MappingStartEvent)
    for event in events:
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            break
        item = _node(event, events, text, node.end)
        if pairs:
            node.keys.append(item)
            colon = text.find(":", item.end) + 1
            item = _node(next(events), events, text, colon)
        node.items.append(item)
        node.end, node.lines = item.end, item.lines
    if not node.block:
        node.end = event.end_mark.index
    return node


def _at(node: YamlNode, path: Sequence[Any]) -> YamlNode:
    for name in path:
        number = node.number(name)
        assert number is not None, path
        node = node.items[number]
    if node.alias:
        raise ValueError(f"`*{node.alias}` is an alias, defined elsewhere")
    return node
