"""Write an adapter into a folder, as float32; it appears when it is complete."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from mlx_gptoss.checkpoint.adapters.digest import config_digest
from mlx_gptoss.checkpoint.adapters.layouts import LAYOUTS
from mlx_gptoss.checkpoint.adapters.read import BASE_DIGEST, PEFT
from mlx_gptoss.checkpoint.adapters.targets import target_matrices
from mlx_gptoss.checkpoint.adapters.update import WeightUpdate
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import storage_errors, sync_folder, write
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import ADAPTER_CONFIG

WRITING = ".partial"


def write_adapter(
    updates: Mapping[str, Any],
    folder: Path,
    config: ModelConfig,
    *,
    layout: str = PEFT,
    base: str | None = None,
    metadata: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write updates by module path into a new folder.

    An update has `a` and `b`, arrays of numpy or MLX (`WeightUpdate`, `LowRank`).
    `layout` is "peft" or "mlx-lm"; `base` names the model; `metadata` is added to the
    weight file, and `texts` are further files, such as a card. Raises CheckpointError
    if the folder exists, and StorageError if it cannot be written. Peak memory: twice
    the updates.
    """
    if folder.exists():
        raise CheckpointError(
            f"`{folder}` already exists: choose another name, or remove it"
        )
    partial = folder.with_name(folder.name + WRITING)
    with storage_errors(partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    write_adapter_files(
        updates,
        partial,
        config,
        layout=layout,
        base=base,
        metadata=metadata,
        texts=texts,
    )
    with storage_errors(folder):
        partial.rename(folder)
        sync_folder(folder.parent)


def write_adapter_files(
    updates: Mapping[str, Any],
    folder: Path,
    config: ModelConfig,
    *,
    layout: str = PEFT,
    base: str | None = None,
    metadata: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write or replace the files of an adapter in an existing folder, each at once."""
    found = {
        path: WeightUpdate(as_floats(update.a), as_floats(update.b))
        for path, update in updates.items()
    }
    check_updates(found, config)
    files = LAYOUTS[layout](found, config, base)
    facts = {
        "format": files.framework,
        BASE_DIGEST: config_digest(config),
        **(metadata or {}),
    }
    write(folder / files.name, save(files.tensors, metadata=facts), private=False)
    settings = json.dumps(files.settings, indent=2) + "\n"
    for name, text in {ADAPTER_CONFIG: settings, **(texts or {})}.items():
        write(folder / name, text, private=False)
    sync_folder(folder)


def check_updates(updates: Mapping[str, WeightUpdate], config: ModelConfig) -> None:
    """Raise CheckpointError for no update, or one that the model has no matrix for."""
    if not updates:
        raise CheckpointError(
            "there is nothing to write: the adapter updates no matrix"
        )
    targets = target_matrices(config)
    for path, update in updates.items():
        if path not in targets or targets[path].shape != update.weight_shape:
            raise CheckpointError(
                f"`{path}` with a weight of {update.weight_shape} is no matrix of this "
                "model: write the adapter with the config of its model"
            )


def as_floats(values: Any) -> np.ndarray:
    """Return an array of numpy or MLX as float32."""
    if not isinstance(values, np.ndarray):
        values = np.array(values.astype(_mlx_float32()))
    return np.ascontiguousarray(values, np.float32)


def _mlx_float32() -> Any:
    import mlx.core as mx  # noqa: PLC0415 - numpy's updates are written without MLX

    return mx.float32
