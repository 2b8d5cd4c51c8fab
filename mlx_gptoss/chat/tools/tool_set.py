"""Tools that share a state, and tools from any source the caller may pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from mlx_gptoss.chat.tools.tool import Tool
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import ToolDescription


@runtime_checkable
class ToolSet(Protocol):
    """Several tools with a common state, such as the built-in ones."""

    @property
    def tools(self) -> Sequence[Tool]: ...
    def reset(self) -> None:
        """Return to the initial state, for a new conversation."""
        ...


ToolLike = Tool | ToolDescription | ToolSet | Callable[..., Any] | Mapping[str, Any]


def tools_by_name(sources: Iterable[ToolLike]) -> dict[str, Tool]:
    """Build the Tools of all `sources`; raises PromptError for two of one name."""
    found: dict[str, Tool] = {}
    for source in sources:
        own = source.tools if isinstance(source, ToolSet) else [as_tool(source)]
        for tool in own:
            names = [one.description.wire_name for one in found.values()]
            if tool.description.wire_name in names:
                raise PromptError(f"two tools are named `{tool.name}`: rename one")
            found[tool.name] = tool
    return found


def as_tool(source: ToolLike) -> Tool:
    """Build a Tool from a function, a description, or an OpenAI `tools` entry."""
    if isinstance(source, Tool):
        return source
    if isinstance(source, ToolDescription):
        return Tool(source)
    if isinstance(source, Mapping):
        entry = source.get("function", source)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise PromptError("a tool given as a dict needs a `name`")
        given = entry.get("parameters")
        if given is not None and not isinstance(given, Mapping):
            raise PromptError(
                f"`parameters` of tool `{entry['name']}` are not a JSON schema: "
                "give a dict"
            )
        return Tool.from_schema(
            entry["name"], entry.get("description") or "", entry.get("parameters")
        )
    if isinstance(source, ToolSet):
        raise PromptError(f"{type(source).__name__} is several tools: use its `tools`")
    return Tool.from_function(source)
