"""Bytes of adapters (LoRA) beside a model, computed from their ranks.

An update of rank r of a matrix (out, in) has r * (in + out) values. A model keeps each
adapter as it was read, and what it computes with, which is the same unless

- q, k and v are one matrix: its update has the ranks of the three side by side;
- several adapters update one matrix: they are stacked, padded to the largest rank,
  behind one matrix of zeros for rows without an adapter.

A model whose q, k and v are apart takes less than this.
"""

from collections.abc import Mapping, Sequence
from math import prod

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import PACKED, matrices

ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj")
FUSED = "qkv_proj"

Ranks = Mapping[str, int]  # module path -> rank
Shape = tuple[int, ...]  # (out, in), of experts (E, out, in)


def adapter_bytes(
    config: ModelConfig, adapters: Sequence[Ranks], *, float_bytes: int
) -> int:
    """Return the bytes of adapters that are loaded together, each given by its ranks.

    `float_bytes` are those of a value in the dtype that the model computes in.
    """
    shapes: dict[str, Shape] = {
        each.path: each.shape for each in matrices(config, PACKED)
    }
    values = sum(
        rank * _values_per_rank(shapes[path])
        for ranks in adapters
        for path, rank in ranks.items()
    )
    modules: dict[str, list[tuple[int, Shape]]] = {}
    for ranks in adapters:
        for path, rank, shape in _as_computed(ranks, shapes):
            modules.setdefault(path, []).append((rank, shape))
    for path, updates in modules.items():
        if len(updates) > 1:
            values += _stacked(updates)
        elif path.endswith(FUSED):
            [(rank, shape)] = updates
            values += rank * _values_per_rank(shape)
    return values * float_bytes


def _as_computed(
    ranks: Ranks, shapes: Mapping[str, Shape]
) -> list[tuple[str, int, Shape]]:
    """Return path, rank and shape of each update, with q, k and v as one matrix."""
    found, fused = [], dict[str, int]()
    for path, rank in ranks.items():
        owner, _, name = path.rpartition(".")
        if name in ATTENTION_INPUTS:
            fused[owner] = fused.get(owner, 0) + rank
        else:
            found.append((path, rank, shapes[path]))
    for owner, rank in fused.items():
        parts = [shapes[f"{owner}.{name}"] for name in ATTENTION_INPUTS]
        whole = (sum(out for out, _ in parts), parts[0][1])
        found.append((f"{owner}.{FUSED}", rank, whole))
    return found


def _stacked(updates: Sequence[tuple[int, Shape]]) -> int:
    """Count the values of the stack of several updates of one matrix."""
    most = max(rank for rank, _ in updates)
    shape = updates[0][1]
    experts = prod(shape[:-2])
    return (len(updates) * experts + 1) * most * (shape[-1] + shape[-2])


def _values_per_rank(shape: Shape) -> int:
    *experts, outputs, inputs = shape
    return prod(experts) * (outputs + inputs)
