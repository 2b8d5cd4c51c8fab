"""An MCP server written with the first version of the library, mcp 1.x."""

from mcp.server.fastmcp import FastMCP  # pyright: ignore[reportAttributeAccessIssue] - of mcp 1.x

server = FastMCP("for tests")


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


if __name__ == "__main__":
    server.run()
