"""Resolve `$ref` in a JSON schema: pointers and anchors within one document.

    references = References(schema)
    references.find("#/$defs/name")       # the schema it points to, or None
    references.inline({"$ref": "#a"})     # the target, overridden by its siblings

Used by the prompt, by the grammars and by the check of arguments, so that all three
follow the same references. Never opens another document.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote

Schema = Any  # a mapping or a bool in a valid schema; clients send anything


class References:
    """The references of one document.

    A reference to another document resolves to None, and so does every reference in a
    document that embeds schemas with an `$id` of their own, unless `ignore_ids`.
    """

    def __init__(self, root: Schema, *, ignore_ids: bool = False) -> None:
        self._root = root
        self._ignore_ids = ignore_ids
        self._reachable: dict[str, set[str]] = {}

    @property
    def size(self) -> int:
        """The number of mappings in the document; every schema is one."""
        return sum(1 for _ in _mappings(self._root))

    def find(self, where: Any) -> Schema | None:
        """Return the schema that a reference points to, or None."""
        if not isinstance(where, str) or self._has_embedded_ids:
            return None
        base, _, fragment = where.partition("#")
        if base and base != self._base:
            return None
        if not fragment or fragment.startswith("/"):
            return self._at_pointer(unquote(fragment).split("/")[1:])
        return self._anchors.get(fragment)

    def inline(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the `$ref` of a schema by its target; its own keys take precedence.

        A reference that resolves to no mapping is dropped.
        """
        target = self.find(schema.get("$ref"))
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        return {**(target if isinstance(target, Mapping) else {}), **siblings}

    def reachable(self, where: str) -> set[str]:
        """Return every reference that `where` leads to, directly or through others."""
        if where not in self._reachable:
            found: set[str] = set()
            pending = [where]
            while pending:
                for one in _references(self.find(pending.pop())):
                    if one not in found:
                        found.add(one)
                        pending.append(one)
            self._reachable[where] = found
        return self._reachable[where]

    def _at_pointer(self, steps: list[str]) -> Schema | None:
        found: Any = self._root
        for step in steps:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and len(name) < 10:
                found = found[int(name)] if int(name) < len(found) else None
            elif isinstance(found, Mapping):
                found = found.get(name)
            else:
                return None
        return found

    @property
    def _base(self) -> Any:
        return self._root.get("$id") if isinstance(self._root, Mapping) else None

    @cached_property
    def _has_embedded_ids(self) -> bool:
        return not self._ignore_ids and any(
            one is not self._root and isinstance(one.get("$id"), str)
            for one in _mappings(self._root)
        )

    @cached_property
    def _anchors(self) -> dict[str, Schema]:
        return {
            one["$anchor"]: one
            for one in _mappings(self._root)
            if isinstance(one.get("$anchor"), str)
        }


def _references(schema: Schema) -> Iterator[str]:
    """Yield every `$ref` within a schema."""
    for one in _mappings(schema):
        if isinstance(where := one.get("$ref"), str):
            yield where


def _mappings(root: Schema) -> Iterator[Mapping[str, Any]]:
    pending = [root]
    while pending:
        one = pending.pop()
        if isinstance(one, Mapping):
            yield one
            pending += one.values()
        elif isinstance(one, list):
            pending += one
