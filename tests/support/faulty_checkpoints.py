"""A small checkpoint to damage, and the message of opening it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import CheckpointError, ConfigError
from tests.support import checkpoints

Tensors = dict[str, np.ndarray]
CONFIG = checkpoints.hf_config(
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=5)
LAYER = "model.layers.1."
BLOCKS = LAYER + "mlp.experts.gate_up_proj_blocks"


def message(folder: Path, opened: Path | None = None) -> str:
    """Return the error of opening, with the folder's path as FOLDER."""
    with pytest.raises((CheckpointError, ConfigError)) as error:
        open_checkpoint(opened or folder)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "FOLDER")


def hf(
    folder: Path, change: Callable[[Tensors], object] = lambda tensors: None
) -> Path:
    tensors = dict(TENSORS)
    change(tensors)
    return checkpoints.write_folder(folder, CONFIG, tensors)


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; `...` removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    path.write_text(json.dumps(kept))


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
