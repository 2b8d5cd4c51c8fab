"""LoRA adapters on disk: recognize, read, check and write them.

    adapter = read_adapter(folder, config, name="mine")        # for the model
    updates = open_adapter(folder, config)                     # headers only, no MLX
    write_adapter(updates, folder, config, layout="peft")

recognize.py  tell a folder with an adapter from a folder with a model
targets.py    the matrices of a model that an adapter can update, and their shapes
stored.py     an opened adapter: updates that are read one matrix at a time
factors.py    pairs of LoRA tensors, and the update they make
update.py     an update as arrays: join, split and pad
settings.py   `adapter_config.json` of PEFT and of mlx-lm
peft.py       PEFT's and Unsloth's names and orders
mlx_lm.py     mlx-lm's names and orders
faults.py     messages for adapters of another model, or of a kind that is not read
digest.py     digests of adapters and of their models
read.py       open a folder; read it for the model
write.py      write a folder
layouts.py    PEFT's and mlx-lm's layouts of what is written

Every layout becomes the same thing: for a module path such as
`model.layers.0.mlp.experts.gate_up_proj`, `a` and `b` with the scale in `b`.

The names are imported on first use; only `read_adapter` starts MLX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint.adapters.read import open_adapter, read_adapter
    from mlx_gptoss.checkpoint.adapters.recognize import (
        adapter_files,
        describe_adapter,
        is_adapter_folder,
    )
    from mlx_gptoss.checkpoint.adapters.stored import StoredAdapter
    from mlx_gptoss.checkpoint.adapters.update import WeightUpdate
    from mlx_gptoss.checkpoint.adapters.write import write_adapter, write_adapter_files

__all__ = [
    "StoredAdapter",
    "WeightUpdate",
    "adapter_files",
    "describe_adapter",
    "is_adapter_folder",
    "open_adapter",
    "read_adapter",
    "write_adapter",
    "write_adapter_files",
]

_MODULES = {
    "StoredAdapter": "stored",
    "WeightUpdate": "update",
    "adapter_files": "recognize",
    "describe_adapter": "recognize",
    "is_adapter_folder": "recognize",
    "open_adapter": "read",
    "read_adapter": "read",
    "write_adapter": "write",
    "write_adapter_files": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
