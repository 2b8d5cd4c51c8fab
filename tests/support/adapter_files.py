"""Random adapters of tiny models, written as PEFT, mlx-lm and Unsloth save them.

    loras = random_loras(CONFIG, paths, rank=3, seed=0)
    write_peft(folder, loras, alpha=6)
    delta(loras[path], 2.0)                # (out, in) or (E, out, in), float64

By hand from the formats' descriptions: the judge of what is read. A `Lora` has A (r,
in) and B (out, r) of a matrix, or (E, r, in) and (E, out, r) of a stack of experts.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from mlx_gptoss.checkpoint.adapters.targets import target_matrices
from mlx_gptoss.format.config import ModelConfig

Tensors = dict[str, np.ndarray]
PREFIX = "base_model.model."


class Lora(NamedTuple):
    """A and B of one matrix, or of all experts, before any scale."""

    a: np.ndarray
    b: np.ndarray

    @property
    def rank(self) -> int:
        return self.a.shape[-2]


def delta(lora: Lora, scale: float = 1.0) -> np.ndarray:
    """Return what the weight gains: scale * B A, in float64."""
    return scale * (lora.b.astype(np.float64) @ lora.a.astype(np.float64))


def random_loras(
    config: ModelConfig,
    paths: Iterable[str],
    *,
    rank: int = 3,
    seed: int = 0,
    size: float = 0.1,
) -> dict[str, Lora]:
    """Draw an update of each path; `size` is about the rms of what weights gain."""
    draw = np.random.default_rng(seed)
    found = {}
    for path in paths:
        *stack, rows, columns = target_matrices(config)[path].shape
        a = draw.standard_normal((*stack, rank, columns), np.float32)
        b = draw.standard_normal((*stack, rows, rank), np.float32)
        found[path] = Lora(a, b * np.float32(size / rank**0.5))
    return found


def all_paths(config: ModelConfig) -> list[str]:
    return list(target_matrices(config))


def peft_tensors(loras: Mapping[str, Lora]) -> Tensors:
    """Name and order tensors as PEFT does: nested wrappers around the experts."""
    tensors: Tensors = {}
    for path, lora in loras.items():
        module, a, b = path, lora.a, lora.b
        if a.ndim == 3:
            parent, _, name = path.rpartition(".")
            nested = name == "gate_up_proj" and f"{parent}.down_proj" in loras
            module = f"{parent}.base_layer" if nested else parent
            a = a.reshape(-1, a.shape[2])  # the rows of an expert together
            b = b.transpose(1, 2, 0).reshape(b.shape[1], -1)  # rank by rank
        tensors[f"{PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(b)
    return tensors


def peft_settings(rank: int, alpha: float, **more: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "openai/gpt-oss-20b",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": ["q_proj"],
        **more,
    }


def save_adapter(
    folder: Path, name: str, tensors: Tensors, settings: Mapping[str, Any], **more: str
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name, metadata={"format": "pt", **more})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def write_peft(
    folder: Path, loras: Mapping[str, Lora], *, alpha: float = 6, **settings: Any
) -> Path:
    """Write an adapter of one rank as PEFT saves it; its scale is alpha / rank."""
    rank = next(iter(loras.values())).rank
    return save_adapter(
        folder,
        "adapter_model.safetensors",
        peft_tensors(loras),
        peft_settings(rank, alpha, **settings),
    )


def mlx_lm_tensors(loras: Mapping[str, Lora]) -> Tensors:
    """Name and order tensors as mlx-lm does; gate and up are apart."""
    tensors: Tensors = {}
    for path, lora in loras.items():
        if lora.a.ndim == 2:
            tensors[f"{path}.lora_a"] = np.ascontiguousarray(lora.a.T)
            tensors[f"{path}.lora_b"] = np.ascontiguousarray(lora.b.T)
            continue
        parts = {path: lora}
        if path.endswith("gate_up_proj"):
            parts = {
                path.replace("gate_up", half): Lora(lora.a, lora.b[:, n::2])
                for n, half in enumerate(("gate", "up"))
            }
        for name, part in parts.items():
            tensors[f"{name}.lora_a"] = np.ascontiguousarray(part.a)
            tensors[f"{name}.lora_b"] = np.ascontiguousarray(part.b)
    return tensors


def mlx_lm_settings(rank: int, scale: float, **more: Any) -> dict[str, Any]:
    return {
        "fine_tune_type": "lora",
        "model": "openai/gpt-oss-20b",
        "num_layers": -1,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0},
        **more,
    }


def write_mlx_lm(
    folder: Path, loras: Mapping[str, Lora], *, scale: float = 2.0, **settings: Any
) -> Path:
    rank = next(iter(loras.values())).rank
    return save_adapter(
        folder,
        "adapters.safetensors",
        mlx_lm_tensors(loras),
        mlx_lm_settings(rank, scale, **settings),
    )


def unsloth_tensors(loras: Mapping[str, Lora]) -> Tensors:
    """Name tensors as adapters of Unsloth's 4-bit models: a module for each expert."""
    tensors: Tensors = {}
    for path, lora in loras.items():
        modules = {path: lora}
        if lora.a.ndim == 3:
            modules = {
                f"{path}s.{expert}": Lora(lora.a[expert], lora.b[expert])
                for expert in range(len(lora.a))
            }
        elif path.endswith("router"):
            modules = {f"{path}.linear": lora}
        for module, part in modules.items():
            tensors[f"{PREFIX}{module}.lora_A.weight"] = part.a
            tensors[f"{PREFIX}{module}.lora_B.weight"] = part.b
    return tensors
