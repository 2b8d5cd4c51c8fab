"""Tools by the names that the model reads: one list of functions, namespaces or not.

    names = Names()
    names.add(Origin("add", "mcp__numbers"))         # "mcp__numbers__add"
    names.origin("mcp__numbers__add")                # what a call of it goes back as
    names.shown("add", "mcp__numbers")               # how a call in the past is shown

A name depends on what was added before it only where two would be the same, so that a
conversation reads the same when tools are found later. Knows nothing of schemas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.harmony.messages import FUNCTIONS, wire_name

SEPARATOR = "__"
SEARCH = "tool_search"


@dataclass(frozen=True)
class ToolOrigin:
    """A tool as its client knows it; a search finds others, and the client runs it."""

    name: str
    namespace: str | None = None
    is_search: bool = False


class ToolNames:
    """See the module."""

    def __init__(self) -> None:
        self._names: dict[ToolOrigin, str] = {}
        self._origins: dict[str, ToolOrigin] = {}  # by the name as the model writes it

    def __contains__(self, origin: ToolOrigin) -> bool:
        return origin in self._names

    def add(self, origin: ToolOrigin) -> str:
        """Give a tool a name that no other has; the same tool keeps its own."""
        if origin not in self._names:
            plain = qualified_name(origin)
            name, number = plain, 1
            while wire_name(name) in self._origins:
                number += 1
                name = f"{plain}_{number}"
            self._names[origin] = name
            self._origins[wire_name(name)] = origin
        return self._names[origin]

    def origin(self, shown: str) -> ToolOrigin:
        """Return the tool that a call names; an unknown one goes by that name."""
        return self._origins.get(wire_name(shown), ToolOrigin(shown))

    def model_name(self, name: str, namespace: str | None = None) -> str:
        """Return the name of a tool, on offer now or not."""
        found = self.candidates(name, namespace)
        return (
            found[0] if len(found) == 1 else qualified_name(ToolOrigin(name, namespace))
        )

    def candidates(self, name: str, namespace: str | None = None) -> list[str]:
        """Return the tools on offer that may be meant; without a namespace, of any."""
        exact = self._names.get(ToolOrigin(name, namespace))
        if exact is not None:
            return [exact]
        if namespace is not None:
            return []
        return [
            shown
            for origin, shown in self._names.items()
            if name in (origin.name, shown) and not origin.is_search
        ]

    def in_namespace(self, namespace: str) -> list[str]:
        """Return the tools of a namespace."""
        return [s for one, s in self._names.items() if one.namespace == namespace]

    @property
    def search(self) -> str:
        """Return the name of the tool that finds others, on offer or not."""
        return self._names.get(ToolOrigin(SEARCH, is_search=True), SEARCH)


def qualified_name(origin: ToolOrigin) -> str:
    """Write a tool with its namespace, unless that is where all functions are."""
    space = (origin.namespace or "").rstrip("_")
    if space in ("", FUNCTIONS):
        return origin.name
    return f"{space}{SEPARATOR}{origin.name}"


def namespace_of(item: Mapping[str, Any]) -> str | None:
    """Return the namespace of a call or of an entry of `tool_choice`, if it has one."""
    found = item.get("namespace")
    return found if isinstance(found, str) and found else None
