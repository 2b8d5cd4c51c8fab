"""How deep a schema or a grammar leads, along its references and rules too.

    depth_of_schema(schema)      # objects and lists, through `$ref`
    depth_of_lark(grammar)       # rules and terminals
    leads_too_deep(grammar)      # whether that is more than DEEPEST

The grammar library goes down by recursion, so what leads too deep overflows the stack
of its thread. Depth is that of a walk which enters everything once, in the order of
the document: what leads back to itself is as deep as what lies in between.
"""

import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mlx_gptoss.harmony.references import References

DEEPEST = 1000  # a tenth of what the library manages in the worker's threads
Node = TypeVar("Node")

# What a grammar in Lark consists of, as far as depth is concerned.
LARK = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*|\#[^\n]*)
    | %json\s*(?P<json>)
    | (?P<literal>"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/)
    | [?!]?(?P<rule>[A-Za-z_]\w*)(?:\.-?\d+)?(?:\[[^]]*\])?(?:::\w+)?\s*:(?!:)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)


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
    rules: dict[str, list[str]] = {}
    named: list[str] = []  # in the rule that is being read
    deepest, at = 0, 0
    while found := LARK.match(text, at):
        kind, at = found.lastgroup, found.end()
        if kind == "json":
            schema, at = _json(text, at)
            deepest = max(deepest, depth_of_schema(schema))
        elif kind == "rule":
            named = rules.setdefault(found["rule"], [])
        elif kind == "name":
            named.append(found["name"])
    return deepest + _depth(
        rules, lambda one: [name for name in rules[one] if name in rules], str
    )


def leads_too_deep(lark: str) -> bool:
    """Whether a grammar leads deeper than the library should go."""
    lines = lark.count("\n") + 1  # a line begins one rule at most
    few = lines <= DEEPEST and "%json" not in lark
    return not few and depth_of_lark(lark) > DEEPEST


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
