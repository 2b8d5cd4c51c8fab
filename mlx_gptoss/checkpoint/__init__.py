"""Checkpoints on disk: open, check, describe and load them.

    checkpoint = open_checkpoint(folder)         # reads and checks headers only
    model = load_model(checkpoint, dtype=mx.float32)

checkpoint.py          open a checkpoint
folder.py              find config, index and shards; json_files.py reads small JSON
safetensors_header.py  read and check the header of one file
matching.py            match stored tensors with those the config demands
wrong_files.py         what a file probably is that is not what its name says
decoded_tensor.py      tensors that the converter decodes
renaming.py            read other tools' names; stack experts stored one by one
mismatch.py            explain why they differ; tool_signatures.py: names of other tools
adapters/              LoRA adapters: recognize, read and write
parameters.py          arrays in memory and their stored tensors
load.py                fill a model: tensor_reads.py reads, mapping.py maps files
expert_records.py      where each expert is stored, for streaming
value_checks.py        check values for NaN; summary.py, notices.py: for `inspect`
tokenizer/             text to token ids and back
hub/                   model names to folders; downloads

A new tensor layout is data in `format/layout.py`, other names in
`format/foreign_names.py`.

The names are imported on first use: opening a checkpoint does not start MLX, and the
command line, which only asks the hub for folders, imports none of this.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint.checkpoint import Checkpoint, open_checkpoint
    from mlx_gptoss.checkpoint.load import (
        load_classifier,
        load_model,
        load_parameters,
    )
    from mlx_gptoss.checkpoint.parameters import Parameter
    from mlx_gptoss.checkpoint.safetensors_header import StoredTensor, read_header
    from mlx_gptoss.checkpoint.summary import summarize
    from mlx_gptoss.checkpoint.value_checks import check_values

__all__ = [
    "Checkpoint",
    "Parameter",
    "StoredTensor",
    "check_values",
    "load_classifier",
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
    "load_classifier": "load",
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
