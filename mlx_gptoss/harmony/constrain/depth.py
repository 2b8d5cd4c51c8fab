"""Measure the depth of a schema or a grammar, through references and rules.

    depth_of_schema(schema)      # objects and lists, through `$ref`
    depth_of_lark(grammar)       # rules and terminals
    is_too_deep(grammar)         # whether that is more than MAX_DEPTH

The grammar library recurses, so depth overflows the stack of its thread. The depth is
that of a depth-first walk which enters everything once, in document order.
"""

import itertools
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mlx_gptoss.harmony.references import References

MAX_DEPTH = 1000  # a tenth of what overflows the stack of a worker's thread
T = TypeVar("T")

# The tokens of a grammar in Lark, as the library splits it.
LARK_TOKEN = re.compile(
    r"""
    (?P<space>[ \t]+|(?:\#|//)[^\n]*)
    | %(?:json|regex|llguidance)\s*(?P<json>)
    | (?P<scope>%lark[ \t]*\{)
    | (?P<literal>
        "(?:\\.|[^"\\])*(?:"i?|\\?\Z)  # to the end if unclosed:
        | /(?:\\.|[^/\\])+(?:/[imslux]*|\\?\Z)  # so that each failure is scanned once
        | <[^<>\s]+> | @[A-Za-z0-9_-]+ | %[a-z]+
        | 0[xX][0-9a-fA-F]+ | [+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?
      )
    | [!]?[?]?(?P<name>_?(?:[a-z][_a-z0-9-]*|[A-Z][_A-Z0-9-]*))
    | (?P<sign>::|.)""",
    re.VERBOSE | re.DOTALL,
)
IGNORED, START = "%ignore", "start"
ScopedRule = tuple[int, str]  # the number of its grammar, and its name


def depth_of_schema(schema: Any) -> int:
    """Count the objects and lists on the deepest path into a schema, through `$ref`."""
    references = References(schema)

    def inside(one: Any) -> Iterator[Any]:
        values = one.values() if isinstance(one, Mapping) else one
        yield from (value for value in values if isinstance(value, Mapping | list))
        if isinstance(one, Mapping):
            target = references.find(one.get("$ref"))
            if isinstance(target, Mapping | list):
                yield target

    roots = [schema] if isinstance(schema, Mapping | list) else []
    return _depth(roots, inside, id)


def depth_of_lark(text: str) -> int:
    """Count the rules on the deepest path into a grammar in Lark.

    The schemas within (`%json`) add the depth of the deepest one.
    """
    graph = _RuleGraph()
    deepest, at = 0, 0
    while found := LARK_TOKEN.match(text, at):
        kind, at = found.lastgroup, found.end()
        if kind == "json":
            schema, at = _json(text, at)
            deepest = max(deepest, depth_of_schema(schema))
        elif kind == "name":
            graph.add_name(found["name"])
        elif kind != "space":
            graph.add_sign(found[0])
    return deepest + _depth(graph.roots, graph.inside, lambda rule: rule)


def is_too_deep(lark: str) -> bool:
    """Whether a grammar is deeper than the library may recurse."""
    lines = lark.count("\n") + 1  # at most one rule begins on a line
    few = lines <= MAX_DEPTH and "%json" not in lark
    return not few and depth_of_lark(lark) > MAX_DEPTH


class _RuleGraph:
    """Collects the rules of a grammar and of nested ones, and the names in each."""

    def __init__(self) -> None:
        self._rules: dict[ScopedRule, list[ScopedRule]] = {}
        self._before: dict[ScopedRule, list[ScopedRule]] = {}  # the colon
        self._named: list[ScopedRule] = []  # by the current rule
        self._first = 0  # index of the last of them outside brackets
        self._level = 0  # of brackets
        self._grammar = 0
        self._count = itertools.count(1)
        self._around: list[tuple[int, int, list[ScopedRule]]] = []

    @property
    def roots(self) -> list[ScopedRule]:
        """All rules, those where the library starts first."""
        first = {IGNORED: 0, START: 1}
        return sorted(self._rules, key=lambda rule: first.get(rule[1], 2))

    def inside(self, rule: ScopedRule) -> list[ScopedRule]:
        named = [*self._rules[rule], *self._before.get(rule, ())]
        return [one for one in named if one in self._rules]

    def add_name(self, name: str) -> None:
        if not self._level:
            self._first = len(self._named)
        self._named.append((self._grammar, name))

    def add_sign(self, sign: str) -> None:
        if sign.startswith("%lark"):
            self._around.append((self._grammar, self._level, self._named))
            self._grammar, self._level, self._named = next(self._count), 0, []
        elif sign == "}" and not self._level and self._around:
            self._grammar, self._level, self._named = self._around.pop()
        elif sign in ("(", "[", "{"):
            self._level += 1
        elif sign in (")", "]", "}"):
            self._level -= 1
        elif sign == IGNORED:
            self._named = self._rules.setdefault((self._grammar, IGNORED), [])
        elif sign == ":" and not self._level:
            rule, *before = self._named[self._first :] or [(self._grammar, "")]
            del self._named[self._first :]
            self._named = self._rules[rule] = []
            self._before[rule] = before


def _depth(
    roots: Iterable[T],
    inside: Callable[[T], Iterable[T]],
    key: Callable[[T], Hashable],
) -> int:
    """Return the maximal depth of a depth-first walk that enters everything once."""
    seen: set[Hashable] = set()
    deepest = 0
    for root in roots:
        path: list[Iterator[T]] = [iter([root])]
        while path:
            for node in path[-1]:
                if key(node) not in seen:
                    seen.add(key(node))
                    deepest = max(deepest, len(path))
                    path.append(iter(inside(node)))
                    break
            else:
                path.pop()
    return deepest


def _json(text: str, at: int) -> tuple[Any, int]:
    """Parse the JSON at an offset; return it and its end, or None and the offset."""
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at
