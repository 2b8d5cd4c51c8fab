"""An MCP server for tests, written with the library: tools that work and that fail.

python tests/support/mcp_server.py            # over stdio
"""

import asyncio
import base64
import os
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import Field

server = MCPServer("for tests")


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool(name="read.environment")
def read_environment(name: str) -> str:
    """Return an environment variable."""
    return os.environ.get(name, "not set")


@server.tool()
def fail() -> str:
    """Raise an error."""
    raise ToolError("out of paper")


@server.tool()
async def hang() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return "never"


@server.tool()
def die() -> str:
    """End the whole server at once."""
    os._exit(3)


@server.tool()
def draw() -> CallToolResult:
    """Return a picture with a caption."""
    data = base64.b64encode(b"no picture").decode()
    picture = ImageContent(type="image", data=data, mime_type="image/png")
    return CallToolResult(content=[TextContent(type="text", text="a cat"), picture])


@server.tool()
def twice(
    text: Annotated[str, Field(json_schema_extra={"pattern": r"^(.)\1$"})],
) -> str:
    """Take a letter twice, which no grammar can tell."""
    return text


@server.tool()
def vast(text: Annotated[str, Field(description="very " * 30_000)]) -> str:
    """Take a text, of which far too much is said."""
    return text


if __name__ == "__main__":
    server.run()
