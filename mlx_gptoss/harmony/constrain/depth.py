"""Count how deep a schema or a grammar leads, along its references and rules too.

    depth_of_schema(schema)      # objects and lists, through `$ref`
    depth_of_lark(grammar)       # rules and terminals
    leads_too_deep(grammar)      # whether that is more than DEEPEST

The grammar library goes down by recursion, so what leads too deep overflows the stack
of its thread. Depth is that of a walk which enters everything once, in the order of
the document: what leads back to itself is as deep as what lies in between.
"""

import itertools
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mlx_gptoss.harmony.references import References

MAX_DEPTH = 1000  # a tenth of what the library manages in the worker's threads
Node = TypeVar("Node")

# What a grammar in Lark consists of, as the library reads it.
LARK_TOKEN = re.compile(
    r"""
    (?P<space>[ \t]+|(?:\#|//)[^\n]*)
    | %(?:json|regex|llguidance)\s*(?P<json>)
    | (?P<scope>%lark[ \t]*\{)
    | (?P<literal>
        "(?:\\.|[^"\\])*(?:"i?|\\?\Z)  # to the end where none is closed:
        | /(?:\\.|[^/\\])+(?:/[imslux]*|\\?\Z)  # what fails is read once
        | <[^<>\s]+> | @[A-Za-z0-9_-]+ | %[a-z]+
        | 0[xX][0-9a-fA-F]+ | [+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?
      )
    | [!]?[?]?(?P<name>_?(?:[a-z][_a-z0-9-]*|[A-Z][_A-Z0-9-]*))
    | (?P<sign>::|.)""",
    re.VERBOSE | re.DOTALL,
)
IGNORED, START = "%ignore", "start"
ScopedRule = tuple[int, str]  # the grammar that it stands in, and its name


def depth_of_schema(schema: Any) -> int:
    """Count the objects and lists on the longest way into a schema, through `$ref`."""
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
    """Count the rules on the longest way into a grammar in Lark.

    The schemas within (`%json`) count as the rule that they stand in.
    """
    reader = _RuleGraph()
    deepest, at = 0, 0
    while found := LARK_TOKEN.match(text, at):
        kind, at = found.lastgroup, found.end()
        if kind == "json":
            schema, at = _json(text, at)
            deepest = max(deepest, depth_of_schema(schema))
        elif kind == "name":
            reader.add_name(found["name"])
        elif kind != "space":
            reader.add_sign(found[0])
    return deepest + _depth(reader.roots, reader.inside, lambda rule: rule)


def is_too_deep(lark: str) -> bool:
    """Whether a grammar leads deeper than the library should go."""
    lines = lark.count("\n") + 1  # a line begins one rule at most
    few = lines <= MAX_DEPTH and "%json" not in lark
    return not few and depth_of_lark(lark) > MAX_DEPTH


class _RuleGraph:
    """Collects the rules of a grammar, of those within it, too, and what each names."""

    def __init__(self) -> None:
        self._rules: dict[ScopedRule, list[ScopedRule]] = {}
        self._ends: dict[
            ScopedRule, list[ScopedRule]
        ] = {}  # named in front of the colon
        self._named: list[ScopedRule] = []  # by the rule that is being read
        self._first = 0  # of them, the last that stands in no brackets
        self._level = 0  # brackets
        self._grammar = 0
        self._count = itertools.count(1)
        self._around: list[tuple[int, int, list[ScopedRule]]] = []

    @property
    def roots(self) -> list[ScopedRule]:
        """All rules; where the library begins comes first."""
        first = {IGNORED: 0, START: 1}
        return sorted(self._rules, key=lambda rule: first.get(rule[1], 2))

    def inside(self, rule: ScopedRule) -> list[ScopedRule]:
        named = [*self._rules[rule], *self._ends.get(rule, ())]
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
            rule, *ends = self._named[self._first :] or [(self._grammar, "")]
            del self._named[self._first :]
            self._named = self._rules[rule] = []
            self._ends[rule] = ends


def _depth(
    roots: Iterable[Node],
    inside: Callable[[Node], Iterable[Node]],
    key: Callable[[Node], Hashable],
) -> int:
    """How far a walk through everything once, the first first, is ever down."""
    seen: set[Hashable] = set()
    deepest = 0
    for root in roots:
        ways: list[Iterator[Node]] = [iter([root])]
        while ways:
            for node in ways[-1]:
                if key(node) not in seen:
                    seen.add(key(node))
                    deepest = max(deepest, len(ways))
                    ways.append(iter(inside(node)))
                    break
            else:
                ways.pop()
    return deepest


def _json(text: str, at: int) -> tuple[Any, int]:
    """The JSON at a place in a text, and where it ends; nothing if there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at
