"""PEFT's and mlx-lm's layouts of an adapter: its tensors and its settings.

Scales are part of `b`, so the settings say 1: `lora_alpha` is the rank, `scale` 1.
Knows arrays; writes no files.

Dimensions: r rank, E experts.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlx_gptoss.checkpoint.adapters.read import MLX_LM, PEFT
from mlx_gptoss.checkpoint.adapters.update import (
    WeightUpdate,
    pad_rank,
    split_halves,
)
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import MLX_ADAPTER, PEFT_ADAPTER
from mlx_gptoss.format.layout import LAYER_NUMBER

PEFT_PREFIX = "base_model.model."
GATE_UP, DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"
ROUTER = ".mlp.router"
PARAMETERS = (GATE_UP, DOWN, ROUTER)  # PEFT wraps parameters of these, not modules

Updates = Mapping[str, WeightUpdate]
Tensors = dict[str, np.ndarray]


class AdapterFiles(NamedTuple):
    """The files of an adapter: the name of its weights, the weights, the settings."""

    name: str
    tensors: Tensors
    settings: dict[str, Any]
    framework: str  # the `format` that the weight file declares


def peft_files(updates: Updates, config: ModelConfig, base: str | None) -> AdapterFiles:
    """Lay out updates as PEFT does, with a pattern for ranks that differ."""
    ranks = {path: update.rank for path, update in updates.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    other = {parameter_of(path): x for path, x in ranks.items() if x != rank}
    in_modules = [path for path in updates if not path.endswith(PARAMETERS)]
    in_parameters = [path for path in updates if path.endswith(PARAMETERS)]
    parameters = [parameter_of(name) for name in short_names(in_parameters, config)]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
        "rank_pattern": other,
        "alpha_pattern": dict(other),
        "target_modules": short_names(in_modules, config),
        "target_parameters": parameters or None,
    }
    tensors: Tensors = {}
    for path, update in updates.items():
        name = PEFT_PREFIX + peft_module(path, updates)
        a, b = peft_factors(update)
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b)
    return AdapterFiles(PEFT_ADAPTER, tensors, settings, "pt")


def parameter_of(path: str) -> str:
    """Return PEFT's name of the updated parameter: the router's has a `.weight`."""
    return f"{path}.weight" if path.endswith("router") else path


def peft_module(path: str, updates: Updates) -> str:
    """Return the module PEFT stores an update under.

    Two wrappers around the experts are nested, that of `down_proj` outside.
    """
    if not path.endswith((GATE_UP, DOWN)):
        return path
    experts = path.rpartition(".")[0]
    nested = path.endswith(GATE_UP) and f"{experts}.down_proj" in updates
    return f"{experts}.base_layer" if nested else experts


def peft_factors(update: WeightUpdate) -> tuple[np.ndarray, np.ndarray]:
    """Return A (r, in) and B (out, r), or (E * r, in) and (out, r * E) of experts."""
    if update.a.ndim == 2:
        return update.a.T, update.b.T
    a, b = update.a.swapaxes(1, 2), update.b.transpose(2, 1, 0)
    return a.reshape(-1, a.shape[2]), b.reshape(b.shape[0], -1)


def short_names(paths: Sequence[str], config: ModelConfig) -> list[str]:
    """Name modules by their place in a layer if every layer has them, else in full."""
    layers = Counter(place_of(path) for path in paths)
    everywhere = {
        place for place, count in layers.items() if count == config.num_hidden_layers
    }
    return sorted({p if (p := place_of(x)) in everywhere else x for x in paths})


def place_of(path: str) -> str:
    """Return the place of a module in its layer, such as `self_attn.q_proj`."""
    number = LAYER_NUMBER.search(path)
    return path[number.end() :] if number else path


def mlx_lm_files(
    updates: Updates, config: ModelConfig, base: str | None
) -> AdapterFiles:
    """Lay out updates as mlx-lm does: one rank for all, padded with zeros."""
    parts: dict[str, WeightUpdate] = {}
    for path, update in updates.items():
        if not path.endswith(GATE_UP):
            parts[path] = update
            continue
        for name, half in zip(("gate", "up"), split_halves(update), strict=True):
            if half is not None:
                parts[path.replace("gate_up_proj", f"{name}_proj")] = half
    if not parts:
        raise CheckpointError("the updates are all zero: there is nothing to write")
    rank = max(part.rank for part in parts.values())
    tensors: Tensors = {}
    for path, part in parts.items():
        whole = pad_rank(part, rank)
        a, b = whole.a, whole.b
        if a.ndim == 3:
            a, b = a.swapaxes(1, 2), b.swapaxes(1, 2)
        tensors[f"{path}.lora_a"] = np.ascontiguousarray(a)
        tensors[f"{path}.lora_b"] = np.ascontiguousarray(b)
    numbers = [int(x[1]) for path in parts if (x := LAYER_NUMBER.search(path))]
    settings = {
        "fine_tune_type": "lora",
        "model": base,
        "num_layers": config.num_hidden_layers - min(numbers) if numbers else 0,
        "lora_parameters": {
            "rank": rank,
            "scale": 1.0,
            "dropout": 0.0,
            "keys": sorted(set(map(place_of, parts))),
        },
    }
    return AdapterFiles(MLX_ADAPTER, tensors, settings, "mlx")


LAYOUTS: dict[str, Callable[[Updates, ModelConfig, str | None], AdapterFiles]] = {
    PEFT: peft_files,
    MLX_LM: mlx_lm_files,
}
