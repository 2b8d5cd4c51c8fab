"""Rewrite `tool_choice` of Responses as that of chat completions.

An entry names a tool as its client knows it: a function or a custom tool, perhaps with
its `namespace`, a whole namespace, or the tool search. Entries of `allowed_tools` with
other types are ignored.
"""

from collections.abc import Mapping
from typing import Any

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.responses.tool_names import (
    CALLABLE_TYPES,
    SEARCH,
    ToolNames,
    namespace_of,
)
from mlx_gptoss.harmony.constrain.constraints import REQUIRED
from mlx_gptoss.harmony.json_text import Json


def to_chat_tool_choice(choice: str | Json | None, names: ToolNames) -> Any:
    """Return the choice with the names that the model reads. Raises ApiError (400)."""
    if not isinstance(choice, Mapping):
        return choice
    kind = choice.get("type")
    if kind == "namespace":
        return allowed_tools(REQUIRED, _entry_names(choice, names))
    if kind in (*CALLABLE_TYPES, SEARCH):
        [name] = _entry_names(choice, names)
        return {"type": "function", "name": name}
    if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
        entries = [entry for entry in choice["tools"] if isinstance(entry, Mapping)]
        allowed = [name for entry in entries for name in _entry_names(entry, names)]
        return {**choice, **allowed_tools(choice.get("mode", "auto"), allowed)}
    return choice


def allowed_tools(mode: Any, names: list[str]) -> dict[str, Any]:
    tools = [{"type": "function", "name": name} for name in names]
    return {"type": "allowed_tools", "mode": mode, "tools": tools}


def _entry_names(entry: Json, names: ToolNames) -> list[str]:
    """Return the names of the tools that an entry means; none for other types."""
    kind, function = entry.get("type"), entry.get("function", entry)
    if kind == SEARCH:
        return [names.search]
    if kind == "namespace":
        return _namespace_names(entry, names)
    if kind not in CALLABLE_TYPES:
        return []
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise bad_request(
            "`tool_choice` has an entry without a name", param="tool_choice"
        )
    found = names.candidates(name, namespace_of(entry))
    if len(found) > 1:
        raise bad_request(
            f"`tool_choice` names `{name}`, which {len(found)} namespaces have: give "
            "its `namespace`",
            param="tool_choice",
        )
    return found or [names.model_name(name, namespace_of(entry))]


def _namespace_names(entry: Json, names: ToolNames) -> list[str]:
    name = entry.get("name")
    found = names.in_namespace(name) if isinstance(name, str) else []
    if not found:
        raise bad_request(
            "`tool_choice` names a namespace that has no tools here",
            param="tool_choice",
        )
    return found
