"""Checkpoints on disk: open, check, describe and load them.

    checkpoint = open_checkpoint(folder)         # reads and checks headers only
    model = load_model(checkpoint, dtype=mx.float32)

The names are imported on first use: opening a checkpoint does not start MLX, and the
command line, which only asks the hub for folders, imports none of this.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint.checkpoint import Checkpoint, open_checkpoint
    from mlx_gptoss.checkpoint.load import load_model, load_parameters
    from mlx_gptoss.checkpoint.parameters import Parameter
    from mlx_gptoss.checkpoint.safetensors_header import StoredTensor, read_header
    from mlx_gptoss.checkpoint.summary import summarize
    from mlx_gptoss.checkpoint.value_checks import check_values

__all__ = [
    "Checkpoint",
    "Parameter",
    "StoredTensor",
    "check_values",
    "load_model",
    "load_parameters",
    "open_checkpoint",
    "read_header",
    "summarize",
]

_MODULES = {
    "Checkpoint": "checkpoint",
    "Parameter": "parameters",
    "StoredTensor": "safetensors_header",
    "check_values": "value_checks",
    "load_model": "load",
    "load_parameters": "load",
    "open_checkpoint": "checkpoint",
    "read_header": "safetensors_header",
    "summarize": "summary",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
