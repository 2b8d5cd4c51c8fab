"""Tools the model may call: described to it, checked, run, answered in text.

tool.py       one tool, from a function or a JSON schema; running.py its time limit
approval.py   which calls may run, and who is asked
notebook/     the built-in python tool; browser/ the built-in browser tool
mcp/          tools of MCP servers; variables.py `${NAME}` in configuration files
"""

from mlx_gptoss.chat.tools.approval import Approval, ApprovalLike, Policy
from mlx_gptoss.chat.tools.tool import (
    Tool,
    ToolLike,
    ToolSet,
    as_text,
    as_tool,
    tools_by_name,
)

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
