"""Constrain sampling: legal headers, tool calls, answer formats, loop guards."""

from mlx_gptoss.harmony.constrain.constraints import (
    AUTO,
    NONE,
    REQUIRED,
    AnswerFormat,
    Constraints,
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
