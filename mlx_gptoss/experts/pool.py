"""A projection of which only S experts are in memory, in slots.

The weights of a slot are written from outside, straight into the memory of an array
that MLX has evaluated: `out` gives the place, `commit` says that it is filled. Where a
device would not see such writes (`selfcheck` finds out) the bytes take a detour over
an assignment. Biases of all E experts are resident and go by expert, not by slot.
"""

from collections.abc import Iterable
from math import prod

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_gptoss import mxfp4
from mlx_gptoss.config import Quantization
from mlx_gptoss.experts.resident import WORD_BITS, Projection
from mlx_gptoss.experts.slots import Slots
from mlx_gptoss.hollow import empty


class Pool:
    """S slots of one stacked array, contiguous, with a writable view of its memory.

    A slot holds anything until it is filled.
    """

    def __init__(
        self, slots: int, shape: tuple[int, ...], dtype: mx.Dtype, *, in_place: bool
    ) -> None:
        self.in_place = in_place
        # Evaluated, so that its memory exists. That we hold the array keeps MLX from
        # giving its memory to a result.
        self.array = empty((slots, *shape), dtype)
        self.view = np.asarray(self.array)
        self._staged: dict[int, np.ndarray] = {}

    @property
    def slot_bytes(self) -> int:
        return prod(self.array.shape[1:]) * self.array.itemsize

    def out(self, slot: int) -> memoryview:
        """Return where the bytes of a slot are to be written."""
        if self.in_place:
            return self.view[slot].reshape(-1).view(np.uint8).data
        staged = self._staged[slot] = np.empty(self.slot_bytes, np.uint8)
        return staged.data

    def commit(self, slots: Iterable[int]) -> None:
        """Make what was written into `out` part of the array."""
        if self.in_place:
            return
        for slot in slots:
            values = self._staged.pop(slot).view(self.view.dtype)
            self.array[slot] = mx.array(values.reshape(self.view.shape[1:]))
        mx.eval(self.array)
        self.view = np.asarray(self.array)

    def resized(self, kept: list[int], slots: int) -> "Pool":
        """Return a pool of another size that begins with copies of slots `kept`."""
        pool = Pool(
            slots, self.array.shape[1:], self.array.dtype, in_place=self.in_place
        )
        if self.in_place:
            for new, old in enumerate(kept):
                pool.view[new] = self.view[old]
            return pool
        for new, old in enumerate(kept):
            pool.array[new] = self.array[old]
        mx.eval(pool.array)
        pool.view = np.asarray(pool.array)
        return pool


class PooledProjection(Projection):
    """E matrices of which those in `slots` are here: packed as MXFP4, with biases."""

    def __init__(
        self,
        slots: Slots,
        inputs: int,
        outputs: int,
        packing: Quantization,
        *,
        in_place: bool,
    ) -> None:
        nn.Module.__init__(self)  # not the stacks of a Projection
        self.packing = packing
        self.bias = mx.zeros((slots.experts, outputs))
        words = inputs * packing.bits // WORD_BITS
        groups = inputs // packing.group_size
        self._slots = slots
        self._weight = Pool(slots.count, (outputs, words), mx.uint32, in_place=in_place)
        self._scales = Pool(slots.count, (outputs, groups), mx.uint8, in_place=in_place)

    @property
    def weight(self) -> mx.array:
        return self._weight.array

    @property
    def scales(self) -> mx.array:
        return self._scales.array

    @property
    def pools(self) -> dict[str, Pool]:
        """The pools by the kind of tensor."""
        return {"weight": self._weight, "scales": self._scales}

    def resize(self, kept: list[int], slots: int) -> None:
        """Change to another number of slots, the first of which hold `kept`."""
        self._weight = self._weight.resized(kept, slots)
        self._scales = self._scales.resized(kept, slots)

    def places(self, chosen: mx.array) -> mx.array:
        return mx.take(self._slots.table, chosen)

    def decoded(self, expert: int) -> mx.array:
        """Return one matrix as float32 (in, out)."""
        slot = self._slots[expert]
        scales = self._scales.view[slot]
        blocks = self._weight.view[slot].view(np.uint8)
        blocks = blocks.reshape(*scales.shape, mxfp4.BYTES_PER_BLOCK)
        return mx.array(mxfp4.decode(blocks, scales)).T
