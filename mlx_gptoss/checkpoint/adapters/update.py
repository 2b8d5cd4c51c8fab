"""The update of one matrix in numpy, and how updates of its parts are joined.

Knows arrays; nothing of files or layouts.

Dimensions: r rank, E experts, F intermediate size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WeightUpdate:
    """a (in, r), b (r, out), float32, the scale in `b`: W becomes W + (a @ b).T.

    Of a stack of experts: a (E, in, r), b (E, r, out).
    """

    a: np.ndarray
    b: np.ndarray

    @property
    def rank(self) -> int:
        return self.a.shape[-1]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that is updated: (out, in) or (E, out, in)."""
        return (*self.a.shape[:-2], self.b.shape[-1], self.a.shape[-2])


def spread(b: np.ndarray, parity: int) -> np.ndarray:
    """Place outputs (..., r, F) of gate (0) or up (1) among those of gate_up."""
    both = np.zeros((*b.shape[:-1], 2 * b.shape[-1]), b.dtype)
    both[..., parity::2] = b
    return both


def join_halves(gate: WeightUpdate | None, up: WeightUpdate | None) -> WeightUpdate:
    """Make one update of gate_up_proj from those of gate and up, trained apart.

    The rank is the sum of both, or that of one if both have the same `a`.
    """
    parts = [(x, parity) for parity, x in enumerate((gate, up)) if x is not None]
    if gate is not None and up is not None and np.array_equal(gate.a, up.a):
        return WeightUpdate(gate.a, spread(gate.b, 0) + spread(up.b, 1))
    return WeightUpdate(
        np.concatenate([x.a for x, _ in parts], axis=-1),
        np.concatenate([spread(x.b, parity) for x, parity in parts], axis=-2),
    )


def split_halves(update: WeightUpdate) -> tuple[WeightUpdate | None, ...]:
    """Split an update of gate_up_proj into those of gate and up; None changes nothing.

    Ranks that do not reach a half are left out of it.
    """
    halves = (WeightUpdate(update.a, update.b[..., parity::2]) for parity in range(2))
    return tuple(map(drop_unused_ranks, halves))


def drop_unused_ranks(update: WeightUpdate) -> WeightUpdate | None:
    used = update.b.any(axis=-1).reshape(-1, update.rank).any(axis=0)  # (r,)
    if not used.any():
        return None
    return WeightUpdate(update.a[..., used], update.b[..., used, :])


def pad_rank(update: WeightUpdate, rank: int) -> WeightUpdate:
    """Add ranks of zeros, which change nothing."""
    more = rank - update.rank
    if not more:
        return update
    before = [(0, 0)] * (update.a.ndim - 2)
    return WeightUpdate(
        np.pad(update.a, [*before, (0, 0), (0, more)]),
        np.pad(update.b, [*before, (0, more), (0, 0)]),
    )


def stack_experts(
    updates: Sequence[tuple[int, WeightUpdate]], experts: int
) -> WeightUpdate:
    """Stack updates of single experts; experts without one get zeros."""
    rank = max(update.rank for _, update in updates)
    first = updates[0][1]
    a = np.zeros((experts, first.a.shape[0], rank), np.float32)
    b = np.zeros((experts, rank, first.b.shape[1]), np.float32)
    for expert, update in updates:
        a[expert, :, : update.rank], b[expert, : update.rank] = update.a, update.b
    return WeightUpdate(a, b)
