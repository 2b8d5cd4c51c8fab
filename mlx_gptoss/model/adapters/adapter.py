"""Adapters as numbers: low-rank updates of a model's matrices; knows no files.

An update changes a weight W (out, in) to W + (a @ b).T, so the product of x changes by
(x @ a) @ b (LoRA, arXiv 2106.09685). The scale is part of `b`.

Dimensions: r rank, E experts, S slots (0 means no adapter).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx
import numpy as np

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import EMBEDDING, PACKED, matrices


@dataclass(frozen=True)
class LowRank:
    """The update of one matrix: a (in, r), b (r, out), float32, the scale in `b`.

    Of a stack of experts: a (E, in, r), b (E, r, out).
    """

    a: mx.array
    b: mx.array

    @property
    def rank(self) -> int:
        return self.a.shape[-1]

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that is updated: (out, in) or (E, out, in)."""
        return (*self.a.shape[:-2], self.b.shape[-1], self.a.shape[-2])

    @property
    def well_formed(self) -> bool:
        """Whether `a` and `b` can be multiplied."""
        a, b = self.a.shape, self.b.shape
        return len(a) == len(b) in (2, 3) and a[-1] == b[-2] and a[:-2] == b[:-2]


@dataclass(frozen=True)
class Adapter:
    """Updates by module path without `.weight`, such as `model.layers.0.mlp.router`.

    Experts have `mlp.experts.gate_up_proj` (outputs interleaved: even gate, odd up) and
    `mlp.experts.down_proj`. `digest` is that of the updates and of the base model, see
    `updates_digest`.
    """

    name: str
    digest: str
    updates: Mapping[str, LowRank] = field(repr=False)

    @cached_property
    def rank(self) -> int:
        """The largest rank of its updates."""
        return max((update.rank for update in self.updates.values()), default=0)

    @cached_property
    def nbytes(self) -> int:
        return sum(update.nbytes for update in self.updates.values())


def target_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Map each module that an adapter may update to the shape of its weight.

    (out, in), or (E, out, in) for experts. The embedding is not among them.
    """
    found = matrices(config, PACKED)
    return {each.path: each.shape for each in found if each.part != EMBEDDING}


def require_fit(adapter: Adapter, config: ModelConfig) -> None:
    """Raise CheckpointError for an update that the model has no matrix for."""
    shapes = target_shapes(config)
    for path, update in adapter.updates.items():
        found = f"adapter `{adapter.name}`: `{path}`"
        if path not in shapes:
            raise CheckpointError(
                f"{found} is no matrix of this model that an adapter can update: was "
                "it trained on another base model?"
            )
        if not update.well_formed or update.weight_shape != shapes[path]:
            raise CheckpointError(
                f"{found} has A {update.a.shape} and B {update.b.shape}, which do not "
                f"make a weight of shape {shapes[path]}: was it trained on another "
                "base model?"
            )


def updates_digest(updates: Mapping[str, LowRank], base: str = "") -> str:
    """Return the SHA-256 of updates in float32, in the order of their paths.

    `base` is whatever identifies the base model. Evaluates.
    """
    digest = hashlib.sha256(base.encode())
    for path in sorted(updates):
        for kind, matrix in (("a", updates[path].a), ("b", updates[path].b)):
            digest.update(f"\n{path} {kind} {matrix.shape}\n".encode())
            digest.update(np.ascontiguousarray(matrix.astype(mx.float32)).data)
    return digest.hexdigest()
