"""Run OpenAI's gpt-oss on a Mac: load, generate, chat.

The public names below are imported on first use, so that importing a light
module (errors, config, harmony) does not start MLX, and so that the command is soon
where a Ctrl-C ends it without a trace (see `__main__.py`). The one exception to "no
work at import": on Linux an optimized BLAS, if installed, is loaded (see
`blas_library.py`).
"""

import sys
from importlib import import_module

from mlx_gptoss.errors import GptOssError

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all this
if TYPE_CHECKING:
    from typing import Any

    from mlx_gptoss.chat import Chat
    from mlx_gptoss.chat.reasoning_memory import ReasoningMemory
    from mlx_gptoss.chat.sessions import Sessions
    from mlx_gptoss.chat.tools import Approval, Tool
    from mlx_gptoss.engine.load import load
    from mlx_gptoss.engine.runtime import Runtime
    from mlx_gptoss.engine.sampling import SamplingParams
    from mlx_gptoss.harmony.constrain.constraints import AnswerFormat, Constraints
    from mlx_gptoss.harmony.events import (
        Answer,
        Done,
        Preamble,
        Reasoning,
        ToolCall,
        ToolCallFailed,
        ToolResult,
    )

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "AnswerFormat",
    "Approval",
    "Chat",
    "Constraints",
    "Done",
    "GptOssError",
    "Preamble",
    "Reasoning",
    "ReasoningMemory",
    "Runtime",
    "SamplingParams",
    "Sessions",
    "Tool",
    "ToolCall",
    "ToolCallFailed",
    "ToolResult",
    "__version__",
    "load",
]

if sys.platform == "linux":  # in time only before `mlx.core` is imported
    from mlx_gptoss.model.blas_library import preloaded

    preloaded()

_CONSTRAIN = "mlx_gptoss.harmony.constrain.constraints"
_EVENTS = "mlx_gptoss.harmony.events"
_HOMES = {
    "Answer": _EVENTS,
    "AnswerFormat": _CONSTRAIN,
    "Approval": "mlx_gptoss.chat.tools",
    "Chat": "mlx_gptoss.chat",
    "Constraints": _CONSTRAIN,
    "Done": _EVENTS,
    "Preamble": _EVENTS,
    "Reasoning": _EVENTS,
    "ReasoningMemory": "mlx_gptoss.chat.reasoning_memory",
    "Runtime": "mlx_gptoss.engine.runtime",
    "SamplingParams": "mlx_gptoss.engine.sampling",
    "Sessions": "mlx_gptoss.chat.sessions",
    "Tool": "mlx_gptoss.chat.tools",
    "ToolCall": _EVENTS,
    "ToolCallFailed": _EVENTS,
    "ToolResult": _EVENTS,
    "load": "mlx_gptoss.engine.load",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module `mlx_gptoss` has no attribute `{name}`")
    return getattr(import_module(_HOMES[name]), name)
