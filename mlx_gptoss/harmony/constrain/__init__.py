"""Constrain sampling: legal headers, tool calls, answer formats, loop guards."""

from mlx_gptoss.harmony.constrain.constraints import (
    AUTO,
    NONE,
    REQUIRED,
    AnswerFormat,
    Constraints,
    Target,
    built_in_targets,
    function_targets,
)

__all__ = [
    "AUTO",
    "NONE",
    "REQUIRED",
    "AnswerFormat",
    "Constraints",
    "Target",
    "built_in_targets",
    "function_targets",
]
