"""Run OpenAI's gpt-oss on a Mac: load, generate, chat.

    from mlx_gptoss import Chat, load

    with load("demo") as runtime:                   # or "openai/gpt-oss-20b"
        print(Chat(runtime).ask("What is 417 + 285?").answer)

`help(mlx_gptoss.Chat)` says how to stream, call tools, and limit an answer; AsyncChat
is for event loops, `answer_all` for many prompts at once, `Runtime` for token ids.

The public names below are imported on first use, so that importing a light
module (errors, config, harmony) does not start MLX, and so that the command is soon
where a Ctrl-C ends it without a trace (see `__main__.py`). The one exception to "no
work at import": on Linux an optimized BLAS, if installed, is loaded (see
`blas_library.py`).
"""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec

from mlx_gptoss.errors import GptOssError

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all this
if TYPE_CHECKING:
    from typing import Any

    from mlx_gptoss.chat import AsyncChat, Chat
    from mlx_gptoss.chat.answer_all import answer_all, answer_all_async
    from mlx_gptoss.chat.reasoning_memory import ReasoningMemory
    from mlx_gptoss.chat.reply import Reply, ReplyCall
    from mlx_gptoss.chat.sessions import Sessions
    from mlx_gptoss.chat.tools import Approval, Tool
    from mlx_gptoss.engine.load import load
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.outputs import Statistics
    from mlx_gptoss.engine.runtime import Runtime
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
    from mlx_gptoss.harmony.constrain.constraints import Constraints
    from mlx_gptoss.harmony.events import (
        Answer,
        Done,
        Event,
        Preamble,
        Reasoning,
        ToolCall,
        ToolCallFailed,
        ToolResult,
    )
    from mlx_gptoss.harmony.messages import Message
    from mlx_gptoss.workloads.redact.redactor import Redaction, Redactor

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "AnswerFormat",
    "Approval",
    "AsyncChat",
    "Chat",
    "Constraints",
    "Done",
    "Event",
    "GptOssError",
    "LoadOptions",
    "Message",
    "Preamble",
    "Reasoning",
    "ReasoningMemory",
    "Redaction",
    "Redactor",
    "Reply",
    "ReplyCall",
    "Runtime",
    "SamplingParams",
    "Sessions",
    "Statistics",
    "Tool",
    "ToolCall",
    "ToolCallFailed",
    "ToolResult",
    "__version__",
    "answer_all",
    "answer_all_async",
    "load",
]

if sys.platform == "linux":  # in time only before `mlx.core` is imported
    from mlx_gptoss.model.blas_library import preload_once

    preload_once()

_CONSTRAIN = "mlx_gptoss.harmony.constrain.constraints"
_EVENTS = "mlx_gptoss.harmony.events"
_HOMES = {
    "Answer": _EVENTS,
    "AnswerFormat": "mlx_gptoss.harmony.constrain.answer_format",
    "Approval": "mlx_gptoss.chat.tools",
    "AsyncChat": "mlx_gptoss.chat",
    "Chat": "mlx_gptoss.chat",
    "Constraints": _CONSTRAIN,
    "Done": _EVENTS,
    "Event": _EVENTS,
    "LoadOptions": "mlx_gptoss.engine.load_options",
    "Message": "mlx_gptoss.harmony.messages",
    "Preamble": _EVENTS,
    "Reasoning": _EVENTS,
    "ReasoningMemory": "mlx_gptoss.chat.reasoning_memory",
    "Redaction": "mlx_gptoss.workloads.redact.redactor",
    "Redactor": "mlx_gptoss.workloads.redact.redactor",
    "Reply": "mlx_gptoss.chat.reply",
    "ReplyCall": "mlx_gptoss.chat.reply",
    "Runtime": "mlx_gptoss.engine.runtime",
    "SamplingParams": "mlx_gptoss.engine.sampling_params",
    "Sessions": "mlx_gptoss.chat.sessions",
    "Statistics": "mlx_gptoss.engine.outputs",
    "Tool": "mlx_gptoss.chat.tools",
    "ToolCall": _EVENTS,
    "ToolCallFailed": _EVENTS,
    "ToolResult": _EVENTS,
    "answer_all": "mlx_gptoss.chat.answer_all",
    "answer_all_async": "mlx_gptoss.chat.answer_all",
    "load": "mlx_gptoss.engine.load",
}


# Former import paths that documentation or examples showed: importable until 0.3.
_MOVED = {
    "mlx_gptoss.config": "mlx_gptoss.format.config",
    "mlx_gptoss.experts": "mlx_gptoss.model.experts",
    "mlx_gptoss.hub": "mlx_gptoss.checkpoint.hub",
    "mlx_gptoss.layout": "mlx_gptoss.format.layout",
    "mlx_gptoss.mxfp4": "mlx_gptoss.format.mxfp4",
    "mlx_gptoss.opening": "mlx_gptoss.engine.load",
    "mlx_gptoss.reasoning_memory": "mlx_gptoss.chat.reasoning_memory",
    "mlx_gptoss.runtime": "mlx_gptoss.engine.runtime",
    "mlx_gptoss.sampling": "mlx_gptoss.engine.sampling_params",
    "mlx_gptoss.sessions": "mlx_gptoss.chat.sessions",
    "mlx_gptoss.tokenizer": "mlx_gptoss.checkpoint.tokenizer",
    "mlx_gptoss.tools": "mlx_gptoss.chat.tools",
    "mlx_gptoss_convert.conversion": "mlx_gptoss_convert.write.conversion",
    "mlx_gptoss_convert.divergence": "mlx_gptoss_convert.measure.divergence",
    "mlx_gptoss_convert.kl": "mlx_gptoss_convert.measure.kl",
    "mlx_gptoss_convert.passages": "mlx_gptoss_convert.measure.texts",
    "mlx_gptoss_convert.recipe": "mlx_gptoss_convert.plan.recipe",
    "mlx_gptoss_convert.source": "mlx_gptoss_convert.read.source",
    "mlx_gptoss_convert.streamed": "mlx_gptoss_convert.measure.layers",
    "mlx_gptoss_convert.verify": "mlx_gptoss_convert.measure.verify",
}
# Former names in these modules, set when they are imported by their former path.
_RENAMED = {
    "mlx_gptoss_convert.measure.kl": {"choose_passages": "choose_texts"},
    "mlx_gptoss_convert.measure.layers": {"Streamed": "CheckpointModel"},
    "mlx_gptoss_convert.measure.texts": {"Passage": "EvaluationText"},
    "mlx_gptoss_convert.read.source": {"Source": "TensorReader"},
}


class _MovedFinder:
    """Import by a former path: the module of today, and a DeprecationWarning."""

    @staticmethod
    def find_spec(name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        for old, new in _MOVED.items():
            if name == old or name.startswith(f"{old}."):
                loader: Any = _MovedLoader(name, new + name[len(old) :])
                return ModuleSpec(name, loader)
        return None


class _MovedLoader:
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def create_module(self, spec: "Any") -> "Any":
        message = f"`{self._old}` is now `{self._new}`; the old path goes with 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        module = import_module(self._new)
        self._spec = module.__spec__
        for old, new in _RENAMED.get(self._new, {}).items():
            setattr(module, old, getattr(module, new))
        return module

    def exec_module(self, module: "Any") -> None:
        module.__spec__ = self._spec  # the import system has just replaced it


sys.meta_path.insert(0, _MovedFinder)  # before the path: a moved package has submodules


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module `mlx_gptoss` has no attribute `{name}`")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
