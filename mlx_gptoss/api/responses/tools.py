"""All tools of a request as functions: of `tools`, of namespaces, and of its items.

    offer = read_offer(request.tools, items, limits)
    offer.tools        # every tool that can be called
    offer.opening      # those that are shown before the conversation
    offer.found        # those that an item brings, shown where it stands

Tools come with the request, with an `additional_tools` item, or as the result of a
search that the client ran. Those of items are shown where they came, so that what was
read before them stays as it was. Whatever cannot be offered is named in `ignored`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.options import OfferedTools, check_tools
from mlx_gptoss.api.responses.tool_descriptions import (
    read_custom,
    read_function,
    read_search,
)
from mlx_gptoss.api.responses.tool_names import SEARCH, ToolNames, ToolOrigin
from mlx_gptoss.api.responses.wire import ResponsesTool
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.harmony.messages import DeveloperContent, ToolDescription
from mlx_gptoss.harmony.render.contents import developer_text

CALLABLE_TYPES = ("function", "custom")
CLIENT_EXECUTION = "client"
TOOL_ITEM_TYPES = ("additional_tools", "tool_search_output")
INSTRUCTION_ROLES = ("system", "developer")  # messages that may stand before the tools
ToolDescriptions = tuple[ToolDescription, ...]


@dataclass(frozen=True)
class ResponsesTools:
    """See the module; `found` goes by the places of items, as `input[3]`."""

    offered: OfferedTools = field(default_factory=OfferedTools)
    names: ToolNames = field(default_factory=ToolNames)
    opening: ToolDescriptions = ()
    by_item: Mapping[str, ToolDescriptions] = field(default_factory=dict)


@dataclass(frozen=True)
class ListedTool:
    """A tool where it stands; `about` tells of its namespace, at the first of it."""

    tool: ResponsesTool
    path: str
    namespace: str | None = None
    note: str = ""


def read_tools(
    given: Sequence[ResponsesTool],
    items: Sequence[Any],
    limits: RequestLimits,
    *,
    earlier: int = 0,
) -> ResponsesTools:
    """Read the tools of a request; raises ApiError (400) for one that cannot be read.

    `items` have no references any more; the first ones are `earlier`: see `place_of`.
    """
    reader = _ToolListParser(limits)
    opening = reader.read(given, "tools", again=False)
    found: dict[str, ToolDescriptions] = {}
    talked = False
    for at, item in enumerate(items):
        where = item_path(at, earlier)
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind in TOOL_ITEM_TYPES:
            tools = reader.read(item_tools(item, where), f"{where}.tools", again=True)
            if kind == TOOL_ITEM_TYPES[0] and not talked:
                opening.update(tools)
            else:
                found[where] = tuple(tools.values())
        elif not (isinstance(item, Mapping) and item.get("role") in INSTRUCTION_ROLES):
            talked = True
    descriptions = tuple(reader.descriptions.values())
    tools = OfferedTools(descriptions, frozenset(reader.strict), tuple(reader.ignored))
    check_tools(tools, limits)
    return ResponsesTools(tools, reader.names, tuple(opening.values()), found)


def item_path(at: int, earlier: int) -> str:
    """The place of an item as its client knows it: so many are of earlier responses."""
    own = at - earlier
    return f"input[{own}]" if own >= 0 else f"previous_response_id[{at}]"


def item_tools(item: Mapping[str, Any], where: str) -> list[ResponsesTool]:
    """Return the tools of an item."""
    given = item.get("tools")
    if not isinstance(given, list):
        raise bad_request(f"`{where}.tools` is no list of tools", param=where)
    return [parse_tool(one, f"{where}.tools[{at}]") for at, one in enumerate(given)]


def parse_tool(given: Any, where: str) -> ResponsesTool:
    """Return a tool that stands in an item or in a namespace."""
    try:
        return ResponsesTool.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise bad_request(f"`{place}`: {first['msg']}", param=place) from error


class _ToolListParser:
    """Tools by the names they are shown with; the last definition of one counts."""

    def __init__(self, limits: RequestLimits) -> None:
        self.names = ToolNames()
        self.descriptions: dict[str, ToolDescription] = {}
        self.strict: set[str] = set()
        self.ignored: list[str] = []
        self._limits = limits

    def read(
        self, given: Sequence[ResponsesTool], where: str, *, again: bool
    ) -> dict[str, ToolDescription]:
        """Read a list; in one that may name a tool `again`, it is defined anew."""
        read: dict[str, ToolDescription] = {}
        for entry in self._entries(given, where):
            origin = self._origin(entry)
            if not again and origin in self.names:
                name = origin.name
                raise bad_request(
                    f"two tools are named `{name}`: rename one", param="tools"
                )
            shown = self.names.add(origin)
            description = replace(self._description(entry), name=shown)
            if entry.note:
                text = "\n\n".join(filter(None, [entry.note, description.description]))
                description = replace(description, description=text)
            read[shown] = self.descriptions[shown] = description
            self.strict.discard(shown)
            if entry.tool.strict and entry.tool.type == "function":
                self.strict.add(shown)
        return read

    def _entries(
        self, given: Sequence[ResponsesTool], where: str
    ) -> Iterator[ListedTool]:
        for at, tool in enumerate(given):
            place = f"{where}[{at}]"
            if tool.type == "namespace":
                yield from self._inside(tool, place)
            elif tool.type in CALLABLE_TYPES or _is_search(tool):
                yield ListedTool(tool, place)
            else:
                self.ignored.append(tool.type)

    def _inside(self, space: ResponsesTool, where: str) -> Iterator[ListedTool]:
        if not space.name or not isinstance(space.tools, list):
            raise bad_request(
                f"`{where}` is a namespace: give its `name` and its `tools`",
                param=where,
            )
        about = namespace_note(space.name, space.description)
        for at, inner in enumerate(space.tools):
            place = f"{where}.tools[{at}]"
            tool = parse_tool(inner, place)
            if tool.type not in CALLABLE_TYPES:
                self.ignored.append(tool.type)
                continue
            yield ListedTool(tool, place, space.name, about)
            about = ""
        if not space.tools:
            self.ignored.append(space.type)

    def _origin(self, entry: ListedTool) -> ToolOrigin:
        if entry.tool.type == SEARCH:
            return ToolOrigin(SEARCH, is_search=True)
        if not entry.tool.name:
            where = entry.path
            raise bad_request(f"`{where}` has no `name`", param=f"{where}.name")
        return ToolOrigin(entry.tool.name, entry.namespace)

    def _description(self, entry: ListedTool) -> ToolDescription:
        read: dict[str, Callable[[], ToolDescription]] = {
            "function": lambda: read_function(entry.tool, entry.path),
            "custom": lambda: read_custom(entry.tool, entry.path, self._limits),
            SEARCH: lambda: read_search(entry.tool),
        }
        return read[entry.tool.type]()


def _is_search(tool: ResponsesTool) -> bool:
    """Whether the client runs the search: what a server would find is on offer here.

    Only one that a client runs has a schema of its arguments.
    """
    told = tool.execution is None and tool.parameters is not None
    return tool.type == SEARCH and (tool.execution == CLIENT_EXECUTION or told)


def namespace_note(namespace: str, description: str | None) -> str:
    """Say before the first tool of a namespace what all of them are."""
    text = (description or "").strip()
    return f"All of `{namespace}`: {text}" if text else ""


def search_result_text(tools: ToolDescriptions) -> str:
    """Tell what a search has found, as the model reads tools in the opening."""
    if not tools:
        return "No tools were found."
    shown = developer_text(DeveloperContent(tools=tools))
    return f"These functions can be called from now on:\n\n{shown}"
