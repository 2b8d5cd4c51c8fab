"""Adapters with random updates, large enough to change what a model says."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint.adapters import write_adapter
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters import Adapter, LowRank
from mlx_gptoss.model.adapters.adapter import target_shapes, updates_digest

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERTS = ("gate_up_proj", "down_proj")
STRONG = (*ATTENTION, "lm_head")  # with a size of 2: changes every token
ALL = (*ATTENTION, "router", *EXPERTS, "lm_head")


def random_updates(
    config: ModelConfig,
    seed: int,
    *,
    rank: int = 3,
    targets: Sequence[str] = ATTENTION,
    size: float = 0.3,
) -> dict[str, LowRank]:
    """Return updates of the targets in every layer.

    `size` is that of an update's output for an input of size 1.
    """
    rng, updates = np.random.default_rng(seed), {}
    for path, shape in target_shapes(config).items():
        if path.rpartition(".")[2] not in targets:
            continue
        *experts, outputs, inputs = shape
        a = rng.normal(size=(*experts, inputs, rank)) / np.sqrt(inputs)
        b = rng.normal(size=(*experts, rank, outputs)) * size / np.sqrt(rank)
        updates[path] = LowRank(mx.array(a, mx.float32), mx.array(b, mx.float32))
    return updates


def random_adapter(
    config: ModelConfig, seed: int, name: str = "random", **options: object
) -> Adapter:
    """Return an adapter with the updates of `random_updates`."""
    updates = random_updates(config, seed, **options)  # pyright: ignore[reportArgumentType]
    return Adapter(name, updates_digest(updates), updates)


def write_random_adapter(
    folder: Path,
    config: ModelConfig,
    seed: int,
    layout: str = "peft",
    **options: object,
) -> Path:
    """Write an adapter with the updates of `random_updates`; return its folder."""
    updates = random_updates(config, seed, **options)  # pyright: ignore[reportArgumentType]
    write_adapter(updates, folder, config, layout=layout)
    return folder
