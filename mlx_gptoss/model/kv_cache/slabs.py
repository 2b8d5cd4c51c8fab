"""Slots of one capacity: per layer an array of keys and an array of values, the slabs.

Slabs are written in place. That works only while nothing else refers to their memory: a
slice that is held makes MLX copy the whole slab at the next write. So what leaves this
module to stay is a copy, and views are for the forward pass that asks for them.

Dimensions: Hk key/value heads, D head dim, L tokens of one row, N rows of one token.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.kv_cache.snapshot import KeysValues, Segment
from mlx_gptoss.model.kv_sizes import slab_slots


class Move(NamedTuple):
    """Tokens `start` to `end` of a slot, to be copied to the beginning of another."""

    slot: int
    to: int
    start: int
    end: int


class Slabs:
    """The slots of one capacity, (slots, Hk, capacity, D) for the keys of each layer.

    A slot has the same number in all layers and belongs to one owner at a time. Arrays
    are allocated when they are first written, and released with the last slot.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self.layers = layers
        self.capacity = capacity  # tokens
        self._keys: list[mx.array | None] = [None] * layers
        self._values: list[mx.array | None] = [None] * layers
        self._owners: list[ReferenceType[Any] | None] = []  # by slot; weak: no cycles
        self._written: list[int] = []  # tokens that former owners wrote, by slot

    @property
    def slots(self) -> int:
        """Number of slots, free ones included."""
        return len(self._owners)

    @property
    def owners(self) -> list[Any]:
        """The owner of each slot, None where it is free."""
        return [None if owner is None else owner() for owner in self._owners]

    @property
    def used(self) -> int:
        """Number of slots that have an owner."""
        return sum(owner is not None for owner in self.owners)

    @property
    def arrays(self) -> list[mx.array]:
        """All slabs, to be evaluated; a reference that is kept makes writes copy."""
        return [x for side in (self._keys, self._values) for x in side if x is not None]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.arrays)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot in the slabs that are allocated."""
        return self.nbytes // self.slots if self.slots else 0

    def take(self, owner: object) -> int:
        """Give the first free slot, empty, to `owner`; return its number.

        The slots of owners that no longer exist are free.
        """
        owners = self.owners
        if None not in owners:
            self._resize(slab_slots(len(owners) + 1))
        slot = self.owners.index(None)
        if self._owners[slot] is not None:
            self._written[slot] = self.capacity
        self._owners[slot] = ref(owner)
        self._clear(slot)
        return slot

    def free(self, slot: int, written: int) -> None:
        """Take back a slot that holds `written` tokens.

        The slabs shrink when half of their slots are spare.
        """
        self._owners[slot] = None
        self._written[slot] = written
        if 2 * self._least_slots <= self.slots:
            self.trim()

    def trim(self) -> None:
        """Release the spare slots behind the last one in use."""
        self._resize(self._least_slots)

    @property
    def _least_slots(self) -> int:
        used = [slot for slot, owner in enumerate(self.owners, 1) if owner is not None]
        return slab_slots(max(used, default=0))

    def write(self, layer: int, slot: int, at: int, k: mx.array, v: mx.array) -> None:
        """Write tokens (1, Hk, L, D) of one row from position `at` on."""
        end = at + k.shape[2]
        for slab, new in self._sides(layer, k, v):
            slab[slot : slot + 1, :, at:end] = new

    def write_rows(
        self, layer: int, first: int, at: int, k: mx.array, v: mx.array
    ) -> None:
        """Write a token each (N, Hk, 1, D) at one position of N consecutive slots."""
        for slab, new in self._sides(layer, k, v):
            slab[first : first + k.shape[0], :, at : at + 1] = new

    def scatter(
        self, layer: int, places: Sequence[mx.array], k: mx.array, v: mx.array
    ) -> None:
        """Write a token each (N, Hk, 1, D) at `places`, as `index_places` returns."""
        for slab, new in self._sides(layer, k, v):
            slab[tuple(places)] = new[:, :, 0]

    def view(self, layer: int, first: int, last: int, length: int) -> KeysValues:
        """Return the first `length` tokens of slots `first` to `last`, not copied.

        For use in the forward pass that asks; never to be kept.
        """
        keys, values = self._keys[layer], self._values[layer]
        assert keys is not None and values is not None
        return keys[first:last, :, :length], values[first:last, :, :length]

    def copy(self, layer: int, slot: int, start: int, end: int) -> KeysValues:
        """Copy tokens `start` to `end` of a slot: (1, Hk, end - start, D), lazily.

        Until they are evaluated they refer to the slabs.
        """
        keys, values = self._keys[layer], self._values[layer]
        assert keys is not None and values is not None
        part = (slice(slot, slot + 1), slice(None), slice(start, end))
        return mx.array(keys[part]), mx.array(values[part])

    def segment(self, slot: int, start: int, end: int) -> Segment:
        """Copy tokens `start` to `end` of all layers of a slot, lazily."""
        layers = range(self.layers)
        return Segment(tuple(self.copy(layer, slot, start, end) for layer in layers))

    def hand_over(self, moves: Sequence[Move], target: "Slabs") -> None:
        """Copy slots into slots of `target`, and free them.

        One layer at a time, which is released first if no other slot is in use. So only
        one layer of what moves exists twice.
        """
        last = target is not self and self.used == len(moves)
        for layer in range(self.layers):
            self.copy_layer(layer, moves, target)
            if last:
                self._keys[layer] = self._values[layer] = None
        for move in moves:
            self.free(move.slot, self.capacity)

    def copy_layer(self, layer: int, moves: Sequence[Move], target: "Slabs") -> None:
        """Copy tokens of one layer into slots of `target`; evaluated."""
        if self._keys[layer] is None:
            return
        moves = [move for move in moves if move.end > move.start]
        copies = [self.copy(layer, slot, start, end) for slot, _, start, end in moves]
        mx.eval(copies)  # lazy ones would refer to a slab that is about to be written
        for move, pair in zip(moves, copies, strict=True):
            target.write(layer, move.to, 0, *pair)
        mx.eval(target.arrays)

    def pass_on(self, slot: int, owner: object) -> None:
        """Give a slot with its content to another owner."""
        self._owners[slot] = ref(owner)

    @property
    def has_holes(self) -> bool:
        """Whether `trim` could release more if the last owner had the first hole."""
        return slab_slots(self.used) < self._least_slots

    def _sides(
        self, layer: int, k: mx.array, v: mx.array
    ) -> Iterator[tuple[mx.array, mx.array]]:
        """Yield the slab of keys and that of values, each with what is new in it."""
        for side, new in ((self._keys, k), (self._values, v)):
            slab = side[layer]
            if slab is None:
                _, Hk, _, D = new.shape
                slab = mx.zeros((self.slots, Hk, self.capacity, D), new.dtype)
                side[layer] = slab
            yield slab, new

    def _clear(self, slot: int) -> None:
        """Zero what former owners wrote.

        Batches read padding, whose weight is zero, and 0 times NaN would be NaN.
        """
        written, self._written[slot] = self._written[slot], 0
        for slab in self.arrays if written else ():
            slab[slot : slot + 1, :, :written] = mx.array(0, slab.dtype)

    def _resize(self, slots: int) -> None:
        """Change the number of slots, one array at a time."""
        if slots == self.slots:
            return
        for side in (self._keys, self._values):
            for layer, slab in enumerate(side):
                if slab is None:
                    continue
                side[layer] = resized(slab, slots)
        missing = slots - self.slots
        self._owners = self._owners[:slots] + [None] * missing
        self._written = self._written[:slots] + [0] * missing


def resized(slab: mx.array, slots: int) -> mx.array | None:
    """Return an evaluated copy with `slots` slots, new ones zero; None for none."""
    if not slots:
        return None
    missing = slots - slab.shape[0]
    if missing > 0:
        found = mx.pad(slab, [(0, missing), (0, 0), (0, 0), (0, 0)])
    else:
        found = mx.array(slab[:slots])
    mx.eval(found)
    return found


def index_places(
    slots: Sequence[int], positions: Sequence[int], heads: int
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the index (N, 1), (1, Hk), (N, 1) of one token of each slot."""
    return (
        mx.array(np.array(slots, np.int32)[:, None]),
        mx.array(np.arange(heads, dtype=np.int32)[None]),
        mx.array(np.array(positions, np.int32)[:, None]),
    )
