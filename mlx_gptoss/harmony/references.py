"""Where a `$ref` of a JSON schema leads: pointers and anchors of the same document."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote

Schema = Any  # a mapping or a bool; clients send other things, too


class References:
    """Follows the references of one document.

    Those to another document lead nowhere, and so do all in a document of which parts
    have a base (`$id`) of their own.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root

    @property
    def size(self) -> int:
        """How many mappings the document has; a schema is one."""
        return sum(1 for _ in _mappings(self._root))

    def find(self, where: Any) -> Schema | None:
        """The schema that a reference leads to, or None."""
        if not isinstance(where, str) or self._has_bases:
            return None
        base, _, fragment = where.partition("#")
        if base and base != self._base:
            return None
        if not fragment or fragment.startswith("/"):
            return self._pointed(unquote(fragment).split("/")[1:])
        return self._anchors.get(fragment)

    def _pointed(self, steps: list[str]) -> Schema | None:
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
    def _has_bases(self) -> bool:
        return any(
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


def _mappings(root: Schema) -> Iterator[Mapping[str, Any]]:
    left = [root]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            yield one
            left += one.values()
        elif isinstance(one, list):
            left += one
