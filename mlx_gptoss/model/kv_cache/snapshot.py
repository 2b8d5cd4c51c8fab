"""Copies taken from KV caches: segments of full layers, states of window layers.

Holds arrays; the caches themselves make and restore them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

LayerState = tuple[int, mx.array | None, mx.array | None]  # offset, keys, values
KeysValues = tuple[mx.array, mx.array]  # keys, values


@dataclass(frozen=True)
class Segment:
    """Keys and values of a range of tokens in all full layers, copied."""

    layers: tuple[KeysValues, ...]  # (B, Hk, n, D) each

    @property
    def length(self) -> int:
        """Number of tokens; 0 for a model without full layers."""
        return self.layers[0][0].shape[2] if self.layers else 0

    @property
    def arrays(self) -> list[mx.array]:
        return [x for pair in self.layers for x in pair]

    @cached_property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.arrays)

    @staticmethod
    def concatenate(parts: "Sequence[Segment]") -> "Segment":
        """Join consecutive segments."""
        layers = zip(*(part.layers for part in parts), strict=True)
        return Segment(
            tuple(
                (
                    mx.concatenate([k for k, _ in pairs], axis=2),
                    mx.concatenate([v for _, v in pairs], axis=2),
                )
                for pairs in layers
            )
        )

    def slice(self, start: int, end: int) -> "Segment":
        """Copy tokens `start` to `end` of this segment."""
        return Segment(
            tuple(
                (mx.array(k[:, :, start:end]), mx.array(v[:, :, start:end]))
                for k, v in self.layers
            )
        )


@dataclass(frozen=True)
class Snapshot:
    """The window layers at one offset: the state that trimming cannot restore."""

    offset: int
    windows: tuple[LayerState, ...]

    @cached_property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        return [x for state in self.windows for x in state[1:] if x is not None]
