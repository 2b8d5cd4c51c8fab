"""Tools the model may call: described, checked, and run, with results as text.

tool.py        one tool, from a function or a JSON schema
tool_set.py    several tools with a common state; tools from any source, by name
run.py         run a function within a time limit
signature.py   a JSON schema from a signature; docstring.py: descriptions
approval.py    which calls may run
notebook/      the built-in `python` tool
browser/       the built-in `browser` tool
mcp/           tools of MCP servers
variables.py   `${NAME}` in configuration files
"""

from mlx_gptoss.chat.tools.approval import Approval, ApprovalLike, Policy
from mlx_gptoss.chat.tools.tool import Tool, as_text
from mlx_gptoss.chat.tools.tool_set import ToolLike, ToolSet, as_tool, tools_by_name

__all__ = [
    "Approval",
    "ApprovalLike",
    "Policy",
    "Tool",
    "ToolLike",
    "ToolSet",
    "as_text",
    "as_tool",
    "tools_by_name",
]
