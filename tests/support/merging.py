"""Tiny models with adapters merged, and the dense float64 weights they must have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint.adapters import open_adapter
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss_convert.merge.merge import (
    MergeOptions,
    PreparedMerge,
    merge,
    prepare_merge,
)
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from tests.support import oracle
from tests.support.adapter_files import Lora, all_paths, delta, random_loras, write_peft
from tests.support.checkpoints import hf_config, random_tensors

RAW = hf_config(num_hidden_layers=2, num_local_experts=3, vocab_size=270)
CONFIG = ModelConfig.from_dict(RAW)
TENSORS = random_tensors(RAW, seed=3)
PATHS = all_paths(CONFIG)
ATTENTION = [path for path in PATHS if ".self_attn." in path]
EXPERTS = [path for path in PATHS if ".mlp.experts." in path]
SCALE = 2.0  # alpha / rank of `write_peft`


def loras(paths: list[str] = PATHS, **options: Any) -> dict[str, Lora]:
    return random_loras(CONFIG, paths, **options)


def adapter_folder(folder: Path, found: Mapping[str, Lora]) -> Path:
    return write_peft(folder, found, alpha=SCALE * next(iter(found.values())).rank)


def summed(
    tensors: oracle.Tensors, found: Mapping[str, Lora], scale: float = SCALE
) -> dict[str, np.ndarray]:
    """Add every update to its weight, in float64; updated experts become dense."""
    result = dict(tensors)
    for path, lora in found.items():
        gained = delta(lora, scale)
        if gained.ndim == 2:
            result[f"{path}.weight"] = result[f"{path}.weight"] + gained
            continue
        weight, _ = oracle.expert_tensors(tensors, path)  # (E, out, in)
        result.pop(f"{path}_blocks", None)
        result.pop(f"{path}_scales", None)
        result[path] = (weight + gained).swapaxes(1, 2)
    return result


def prepared(
    source: Path, adapter: Path, recipe: str = "lossless", **options: Any
) -> PreparedMerge:
    """Prepare a merge that measures nothing, unless told otherwise."""
    opened = open_source(source)
    stored = open_adapter(adapter, opened.checkpoint.config)
    options = {"measures": False, **options}
    return prepare_merge(
        opened, stored, MergeOptions(recipe=RECIPES[recipe], **options)
    )


def merged(source: Path, adapter: Path, dst: Path, **options: Any) -> Path:
    """Merge into `dst` and return it."""
    merge(prepared(source, adapter, **options), dst)
    return dst
