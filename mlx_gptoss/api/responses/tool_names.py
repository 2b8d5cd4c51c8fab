"""Names of tools as the model reads them: one flat list, namespaces or not.

    names = ToolNames()
    names.add(ToolOrigin("add", "mcp__numbers"))     # "mcp__numbers__add"
    names.origin_of("mcp__numbers__add")             # the tool that a call goes back to
    names.model_name("add", "mcp__numbers")          # the name in a past call

A name depends on the tools before it only if two would be equal, so that a conversation
renders the same when tools are added later. Knows nothing of schemas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.harmony.messages import FUNCTIONS, wire_name

NAMESPACE_SEPARATOR = "__"
SEARCH = "tool_search"
CALLABLE_TYPES = ("function", "custom")


@dataclass(frozen=True)
class ToolOrigin:
    """A tool as its client knows it; the client also runs a search for tools."""

    name: str
    namespace: str | None = None
    is_search: bool = False


class ToolNames:
    """Maps tools of clients to unique names, and back."""

    def __init__(self) -> None:
        self._names: dict[ToolOrigin, str] = {}
        self._origins: dict[str, ToolOrigin] = {}  # by the name the model writes

    def __contains__(self, origin: ToolOrigin) -> bool:
        return origin in self._names

    def add(self, origin: ToolOrigin) -> str:
        """Return a name that no other tool has; the same tool keeps its name."""
        if origin not in self._names:
            plain = qualified_name(origin)
            name, number = plain, 1
            while wire_name(name) in self._origins:
                number += 1
                name = f"{plain}_{number}"
            self._names[origin] = name
            self._origins[wire_name(name)] = origin
        return self._names[origin]

    def origin_of(self, name: str) -> ToolOrigin:
        """Return the tool with a name that the model wrote, even an unknown one."""
        return self._origins.get(wire_name(name), ToolOrigin(name))

    def model_name(self, name: str, namespace: str | None = None) -> str:
        """Return the name that the model reads, for a tool on offer or not."""
        found = self.candidates(name, namespace)
        if len(found) == 1:
            return found[0]
        return qualified_name(ToolOrigin(name, namespace))

    def candidates(self, name: str, namespace: str | None = None) -> list[str]:
        """Return the names of matching tools; without a namespace, in all of them."""
        exact = self._names.get(ToolOrigin(name, namespace))
        if exact is not None:
            return [exact]
        if namespace is not None:
            return []
        return [
            model_name
            for origin, model_name in self._names.items()
            if name in (origin.name, model_name) and not origin.is_search
        ]

    def in_namespace(self, namespace: str) -> list[str]:
        """Return the names of the tools of a namespace."""
        return [
            name
            for origin, name in self._names.items()
            if origin.namespace == namespace
        ]

    @property
    def search(self) -> str:
        """The name of the search for tools, on offer or not."""
        return self._names.get(ToolOrigin(SEARCH, is_search=True), SEARCH)


def qualified_name(origin: ToolOrigin) -> str:
    """Prefix a tool with its namespace, unless that is the one of all functions."""
    namespace = (origin.namespace or "").rstrip("_")
    if namespace in ("", FUNCTIONS):
        return origin.name
    return f"{namespace}{NAMESPACE_SEPARATOR}{origin.name}"


def namespace_of(item: Mapping[str, Any]) -> str | None:
    """Return the namespace of a call or an entry of `tool_choice`, if it has one."""
    namespace = item.get("namespace")
    return namespace if isinstance(namespace, str) and namespace else None
