"""Tools the model may call: described to it, checked, run, answered in text."""

from mlx_gptoss.tools.tool import Tool, ToolLike, as_text, as_tool

__all__ = ["Tool", "ToolLike", "as_text", "as_tool"]
