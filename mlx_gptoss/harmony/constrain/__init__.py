"""Constrain sampling: legal headers, tool calls, answer formats, loop detection."""

from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, REQUIRED, Constraints
from mlx_gptoss.harmony.constrain.tool_constraints import (
    ToolConstraint,
    built_in_constraints,
    function_constraints,
)

__all__ = [
    "AUTO",
    "NONE",
    "REQUIRED",
    "AnswerFormat",
    "Constraints",
    "ToolConstraint",
    "built_in_constraints",
    "function_constraints",
]
