"""The adapter of each row, and the products of rows with their own updates.

Rows of one adapter take two products. Rows of several are gathered while they are few,
as in decode; otherwise every adapter multiplies all rows and a mask drops the others',
because a gathered product reads the matrices again for each row.

Dimensions: N rows, r rank.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property, partial

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.adapters.adapter import LowRank
from mlx_gptoss.model.adapters.stack import NO_ADAPTER, SlotUpdates

GATHER_MAX_ROWS = 64


class RowSlots:
    """The slots of N rows. `present` are those other than 0; `one` is that of all."""

    def __init__(self, slots: np.ndarray | Sequence[int]) -> None:
        self.slots = np.asarray(slots, np.uint32)
        distinct = np.unique(self.slots).tolist()
        self.one: int | None = distinct[0] if len(distinct) == 1 else None
        self.present = [slot for slot in distinct if slot != NO_ADAPTER]
        self._masks: dict[int, mx.array] = {}
        self._places: dict[tuple[int, ...], mx.array] = {}

    @cached_property
    def array(self) -> mx.array:
        """The slots: (N,) uint32."""
        return mx.array(self.slots)

    def places(self, starts: tuple[int, ...]) -> mx.array:
        """Return the places of the rows' matrices in a stack: (N,) uint32."""
        if starts not in self._places:
            self._places[starts] = mx.array(np.array(starts, np.uint32)[self.slots])
        return self._places[starts]

    def mask(self, slot: int) -> mx.array | None:
        """Return (N, 1) float32, 1 for the rows of a slot; None if all are."""
        if self.one == slot:
            return None
        if slot not in self._masks:
            mask = (self.slots == slot).astype(np.float32)
            self._masks[slot] = mx.array(mask[:, None])
        return self._masks[slot]

    def select(self, rows: np.ndarray) -> "RowSlots":
        """Return the slots of some of the rows."""
        return self if self.one is not None else RowSlots(self.slots[rows])


def add_updates(
    update: SlotUpdates, slots: RowSlots, x: mx.array, y: mx.array
) -> mx.array:
    """Add to the products y (..., out) of x (..., in) their updates; N rows in all."""
    if slots.one is not None:
        part = update.parts[slots.one]
        return y if part is None else add_product(part, x, y)
    shape, x, y = y.shape, x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    found = [
        (slot, part)
        for slot in slots.present
        if (part := update.parts[slot]) is not None
    ]
    if len(found) > 1 and len(x) <= GATHER_MAX_ROWS:
        assert update.stacked is not None
        places = slots.places(update.starts)
        y = add_gathered(update.stacked, places, x[:, None], y[:, None])
    else:
        y = add_masked(found, slots, x, y)
    return y.reshape(shape)


def add_masked(
    found: Iterable[tuple[int, LowRank]], slots: RowSlots, x: mx.array, y: mx.array
) -> mx.array:
    """Add to y (N, out) the update of each slot, for its own rows of x (N, in)."""
    for slot, part in found:
        y = add_product(part, x, y, slots.mask(slot))
    return y


def add_product(
    part: LowRank, x: mx.array, y: mx.array, mask: mx.array | None = None
) -> mx.array:
    """Return y + ((x @ a) * mask) @ b, computed in the update's dtype, as y's."""
    z = x.astype(part.a.dtype) @ part.a
    if mask is not None:
        z = z * mask.astype(z.dtype)
    if z.dtype == y.dtype:
        return mx.addmm(y, z, part.b)
    return y + (z @ part.b).astype(y.dtype)


def add_gathered(
    stacked: LowRank,
    places: mx.array,
    x: mx.array,
    y: mx.array,
    mask: mx.array | None = None,
    *,
    sorted_by_expert: bool = False,
) -> mx.array:
    """Add to y (..., n, out) the products of x (..., n, in) with matrices (...).

    `sorted_by_expert` says that the places ascend.
    """
    multiply = partial(
        mx.gather_mm, rhs_indices=places, sorted_indices=sorted_by_expert
    )
    z = multiply(x.astype(stacked.a.dtype), stacked.a)
    if mask is not None:
        z = z * mask.astype(z.dtype)
    return y + multiply(z, stacked.b).astype(y.dtype)
