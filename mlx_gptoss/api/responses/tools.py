"""Read all tools of a request as functions: of `tools`, namespaces and input items.

    tools = read_tools(request.tools, items, limits)
    tools.offered      # every tool that can be called
    tools.initial      # those described before the conversation
    tools.by_item      # those that an item adds, described where it stands

Tools come with the request, in an `additional_tools` item, or as the result of a search
that the client ran. Tools of items are described where they appear, so that the prompt
before them, and its cache, stay the same. Types that cannot be offered are ignored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.options import RequestTools, check_tools
from mlx_gptoss.api.responses.tool_descriptions import (
    read_custom,
    read_function,
    read_search,
)
from mlx_gptoss.api.responses.tool_names import (
    CALLABLE_TYPES,
    SEARCH,
    ToolNames,
    ToolOrigin,
)
from mlx_gptoss.api.responses.wire import ResponsesTool
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.harmony.messages import DeveloperContent, ToolDescription
from mlx_gptoss.harmony.render.contents import developer_text

CLIENT_EXECUTION = "client"
ADDITIONAL_TOOLS = "additional_tools"
TOOL_ITEM_TYPES = (ADDITIONAL_TOOLS, "tool_search_output")
INSTRUCTION_ROLES = ("system", "developer")  # may come before the tools of an item
ToolDescriptions = tuple[ToolDescription, ...]


@dataclass(frozen=True)
class ResponsesTools:
    """The tools of a request; keys of `by_item` are paths such as `input[3]`."""

    offered: RequestTools = field(default_factory=RequestTools)
    names: ToolNames = field(default_factory=ToolNames)
    initial: ToolDescriptions = ()
    by_item: Mapping[str, ToolDescriptions] = field(default_factory=dict)


@dataclass(frozen=True)
class ListedTool:
    """A tool and its path; `note` describes its namespace, at the first tool of it."""

    tool: ResponsesTool
    path: str
    namespace: str | None = None
    note: str = ""


def read_tools(
    tools: Sequence[ResponsesTool],
    items: Sequence[Any],
    limits: RequestLimits,
    *,
    earlier: int = 0,
) -> ResponsesTools:
    """Read the tools of a request. Raises ApiError (400) for an unreadable one.

    `items` are without references; the first `earlier` are of previous responses.
    """
    parser = _ToolListParser(limits)
    initial = parser.read(tools, "tools", redefine=False)
    by_item: dict[str, ToolDescriptions] = {}
    conversation_begun = False
    for index, item in enumerate(items):
        path = item_path(index, earlier)
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind in TOOL_ITEM_TYPES:
            added = parser.read(item_tools(item, path), f"{path}.tools", redefine=True)
            if kind == ADDITIONAL_TOOLS and not conversation_begun:
                initial.update(added)
            else:
                by_item[path] = tuple(added.values())
        elif not (isinstance(item, Mapping) and item.get("role") in INSTRUCTION_ROLES):
            conversation_begun = True
    descriptions = tuple(parser.descriptions.values())
    ignored = tuple(parser.ignored)
    offered = RequestTools(descriptions, frozenset(parser.strict), ignored)
    check_tools(offered, limits)
    return ResponsesTools(offered, parser.names, tuple(initial.values()), by_item)


def item_path(index: int, earlier: int) -> str:
    """Name an item as its client knows it; the first `earlier` are of a response."""
    own = index - earlier
    return f"input[{own}]" if own >= 0 else f"previous_response_id[{index}]"


def item_tools(item: Mapping[str, Any], path: str) -> list[ResponsesTool]:
    """Parse the tools of an item."""
    tools = item.get("tools")
    if not isinstance(tools, list):
        raise bad_request(f"`{path}.tools` is not a list of tools", param=path)
    return [
        parse_tool(tool, f"{path}.tools[{index}]") for index, tool in enumerate(tools)
    ]


def parse_tool(value: Any, path: str) -> ResponsesTool:
    """Parse a tool of an item or a namespace."""
    try:
        return ResponsesTool.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join([path, *map(str, first["loc"])])
        raise bad_request(f"`{place}`: {first['msg']}", param=place) from error


class _ToolListParser:
    """Collects tools by the names the model reads; the last definition counts."""

    def __init__(self, limits: RequestLimits) -> None:
        self.names = ToolNames()
        self.descriptions: dict[str, ToolDescription] = {}
        self.strict: set[str] = set()
        self.ignored: list[str] = []
        self._limits = limits

    def read(
        self, tools: Sequence[ResponsesTool], path: str, *, redefine: bool
    ) -> dict[str, ToolDescription]:
        """Read a list of tools; with `redefine` it may define a tool again."""
        read: dict[str, ToolDescription] = {}
        for listed in self._expand(tools, path):
            origin = self._origin(listed)
            if not redefine and origin in self.names:
                raise bad_request(
                    f"two tools are named `{origin.name}`: rename one", param="tools"
                )
            name = self.names.add(origin)
            description = replace(self._describe(listed), name=name)
            if listed.note:
                text = "\n\n".join(filter(None, [listed.note, description.description]))
                description = replace(description, description=text)
            read[name] = self.descriptions[name] = description
            self.strict.discard(name)
            if listed.tool.strict and listed.tool.type == "function":
                self.strict.add(name)
        return read

    def _expand(
        self, tools: Sequence[ResponsesTool], path: str
    ) -> Iterator[ListedTool]:
        """Yield the tools that can be offered, those of namespaces too."""
        for index, tool in enumerate(tools):
            place = f"{path}[{index}]"
            if tool.type == "namespace":
                yield from self._expand_namespace(tool, place)
            elif tool.type in CALLABLE_TYPES or _is_client_search(tool):
                yield ListedTool(tool, place)
            else:
                self.ignored.append(tool.type)

    def _expand_namespace(
        self, namespace: ResponsesTool, path: str
    ) -> Iterator[ListedTool]:
        if not namespace.name or not isinstance(namespace.tools, list):
            raise bad_request(
                f"`{path}` is a namespace: give its `name` and its `tools`",
                param=path,
            )
        note = namespace_note(namespace.name, namespace.description)
        for index, value in enumerate(namespace.tools):
            place = f"{path}.tools[{index}]"
            tool = parse_tool(value, place)
            if tool.type not in CALLABLE_TYPES:
                self.ignored.append(tool.type)
                continue
            yield ListedTool(tool, place, namespace.name, note)
            note = ""
        if not namespace.tools:
            self.ignored.append(namespace.type)

    def _origin(self, listed: ListedTool) -> ToolOrigin:
        if listed.tool.type == SEARCH:
            return ToolOrigin(SEARCH, is_search=True)
        if not listed.tool.name:
            path = listed.path
            raise bad_request(f"`{path}` has no `name`", param=f"{path}.name")
        return ToolOrigin(listed.tool.name, listed.namespace)

    def _describe(self, listed: ListedTool) -> ToolDescription:
        readers: dict[str, Callable[[], ToolDescription]] = {
            "function": lambda: read_function(listed.tool, listed.path),
            "custom": lambda: read_custom(listed.tool, listed.path, self._limits),
            SEARCH: lambda: read_search(listed.tool),
        }
        return readers[listed.tool.type]()


def _is_client_search(tool: ResponsesTool) -> bool:
    """Whether the client runs the search; a server's search is not offered.

    Without `execution`, one with a schema for its arguments is the client's.
    """
    unspecified = tool.execution is None and tool.parameters is not None
    return tool.type == SEARCH and (tool.execution == CLIENT_EXECUTION or unspecified)


def namespace_note(namespace: str, description: str | None) -> str:
    """Describe a namespace, in front of the description of its first tool."""
    text = (description or "").strip()
    return f"All of `{namespace}`: {text}" if text else ""


def search_result_text(tools: ToolDescriptions) -> str:
    """Describe the tools that a search found, as a developer message does."""
    if not tools:
        return "No tools were found."
    text = developer_text(DeveloperContent(tools=tools))
    return f"These functions can be called from now on:\n\n{text}"
