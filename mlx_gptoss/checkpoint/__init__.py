"""Checkpoints on disk: open and check them, load them, look into them.

    checkpoint = open_checkpoint(folder)         # headers only, everything checked
    model = load_model(checkpoint, dtype=mx.float32)

`load_model` lives behind MLX: it is imported on first use, so that headers can be
inspected without starting MLX.
"""

from typing import TYPE_CHECKING, Any

from mlx_gptoss.checkpoint.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.parameters import Parameter
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor, read_header
from mlx_gptoss.checkpoint.summary import summarize
from mlx_gptoss.checkpoint.value_checks import check_values

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint.load import load_model, load_parameters

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


def __getattr__(name: str) -> Any:
    if name not in ("load_model", "load_parameters"):
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    from mlx_gptoss.checkpoint import load  # noqa: PLC0415 - starts MLX

    return getattr(load, name)
