"""A tool for a chat: an MCP server that tells the weather, always the same.

mlx-gptoss chat --mcp mcp.json, with
{"mcpServers": {"my": {"command": "python", "args": ["weather_server.py"]}}}
"""

import json

from mcp.server.mcpserver import MCPServer

server = MCPServer("weather")


@server.tool()
def get_weather(city: str) -> str:
    """Gets the weather for a city."""
    return json.dumps({"temperature": 21, "sky": "clear"})


if __name__ == "__main__":
    server.run()
