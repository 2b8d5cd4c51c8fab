"""Name the tools of MCP servers for the model, and limit how many there are."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from mlx_gptoss.errors import ToolError

if TYPE_CHECKING:
    from mcp.types import Tool as RemoteTool

    from mlx_gptoss.chat.tools.mcp.session import McpConnection

MAX_TOOLS = 256  # of all servers: every prompt contains them
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


def assign_names(
    connections: "Iterable[McpConnection]",
) -> "Iterator[tuple[McpConnection, RemoteTool, str]]":
    """Name each tool SERVER_TOOL, with a number if another tool has the same name.

    Names of servers or tools may differ only in characters that are not allowed here.
    A tool that its server lists twice is one tool.
    """
    taken: set[str] = set()
    for connection in connections:
        for remote in {tool.name: tool for tool in connection.tools}.values():
            base = NOT_IN_NAMES.sub("_", f"{connection.server.name}_{remote.name}")
            numbers = count(2)
            name = base
            while name in taken:
                name = f"{base}_{next(numbers)}"
            taken.add(name)
            yield connection, remote, name


def check_tool_count(connections: "Sequence[McpConnection]") -> None:
    """Raise ToolError if the servers offer more tools than a prompt should hold."""
    if sum(len(one.tools) for one in connections) > MAX_TOOLS:
        counts = ", ".join(
            f"`{one.server.name}` {len(one.tools):,}" for one in connections
        )
        raise ToolError(
            f"MCP servers offer more than {MAX_TOOLS} tools ({counts}): name those you "
            "need in `includeTools` of a server's entry, like "
            '["read_*"], or disable a server'
        )
