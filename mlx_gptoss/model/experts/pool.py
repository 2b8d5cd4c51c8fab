"""A projection that keeps only S of E experts in memory, in slots.

A slot's weights are written straight into the memory of an evaluated MLX array:
`slot_memory` returns that memory, `commit` makes the written slots part of the array.
If the device does not see such writes (`write_check` tests it), the bytes are assigned
instead; if floats have another dtype in memory than in the file (possible for affine
weights), they are cast. Biases of all E experts are resident and indexed by expert.
"""

from collections.abc import Iterable, Mapping
from math import prod

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.dtypes import RAW_DTYPES, cast
from mlx_gptoss.model.buffers import empty
from mlx_gptoss.model.experts.projection import WORD_BITS, Projection
from mlx_gptoss.model.experts.slots import Slots


class SlotPool:
    """S slots of one contiguous array, with a writable view of its memory.

    `stored_dtype` is the dtype of floats in the file; other values have the same bytes
    in memory. The content of a slot is arbitrary until it is filled.
    """

    def __init__(
        self,
        slots: int,
        shape: tuple[int, ...],
        dtype: mx.Dtype,
        *,
        in_place: bool,
        stored_dtype: str | None = None,
    ) -> None:
        self.in_place = in_place
        self._dtype = dtype
        self._stored = stored_dtype
        # Evaluated, so that its memory exists; our reference keeps MLX from reusing it
        # for a result. numpy has no bfloat16, so its bits are held as uint16.
        raw = mx.uint16 if dtype == mx.bfloat16 else dtype
        self._raw = empty((slots, *shape), raw)
        self.view = np.asarray(self._raw)
        self._staged: dict[int, np.ndarray] = {}

    @property
    def array(self) -> mx.array:
        """All slots: (S, ...)."""
        same = self._raw.dtype == self._dtype
        return self._raw if same else self._raw.view(self._dtype)  # shares the memory

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot as stored in the file."""
        return prod(self.view.shape[1:]) * self._source.itemsize

    @property
    def _source(self) -> np.dtype:
        return self.view.dtype if self._stored is None else RAW_DTYPES[self._stored]

    @property
    def _direct(self) -> bool:
        """Whether files are read straight into the slots."""
        return self.in_place and self._source == self.view.dtype

    def slot_memory(self, slot: int) -> memoryview:
        """Return the memory to write the bytes of a slot to."""
        if self._direct:
            return self.view[slot].reshape(-1).view(np.uint8).data
        staged = self._staged[slot] = np.empty(self.slot_bytes, np.uint8)
        return staged.data

    def commit(self, slots: Iterable[int]) -> None:
        """Make the bytes written to these slots part of the array."""
        if self._direct:
            return
        for slot in slots:
            values = self._staged.pop(slot).view(self._source)
            if self._stored is not None:
                values = cast(values, self._stored, self.view.dtype)
            values = values.reshape(self.view.shape[1:])
            if self.in_place:
                self.view[slot] = values
            else:
                self._raw[slot] = mx.array(values)
        if not self.in_place:
            mx.eval(self._raw)
            self.view = np.asarray(self._raw)

    def resized(self, kept: list[int], slots: int) -> "SlotPool":
        """Return a pool of another size that starts with copies of slots `kept`."""
        pool = SlotPool(
            slots,
            self.view.shape[1:],
            self._dtype,
            in_place=self.in_place,
            stored_dtype=self._stored,
        )
        if self.in_place:
            for new, old in enumerate(kept):
                pool.view[new] = self.view[old]
            return pool
        for new, old in enumerate(kept):
            pool._raw[new] = self._raw[old]
        mx.eval(pool._raw)
        pool.view = np.asarray(pool._raw)
        return pool


class PooledProjection(Projection):
    """E quantized matrices, of which those in `slots` are in memory.

    `stored_dtypes` are the dtypes in the file of weight, scales and, if affine, biases;
    floats in memory are `dtype`.
    """

    def __init__(
        self,
        slots: Slots,
        inputs: int,
        outputs: int,
        quantization: Quantization,
        *,
        stored_dtypes: Mapping[str, str],
        dtype: mx.Dtype,
        in_place: bool,
    ) -> None:
        nn.Module.__init__(self)  # without the full stacks of a Projection
        self.quantization = quantization
        self.bias = mx.zeros((slots.experts, outputs))
        self._slots = slots
        words = inputs * quantization.bits // WORD_BITS
        groups = inputs // quantization.group_size
        shapes = {"weight": (words, mx.uint32)}
        if not quantization.is_affine:
            shapes["scales"] = (groups, mx.uint8)
        else:
            shapes |= {"scales": (groups, dtype), "biases": (groups, dtype)}
        self._pools = {
            kind: SlotPool(
                slots.count,
                (outputs, columns),
                form,
                in_place=in_place,
                stored_dtype=stored_dtypes[kind] if form == dtype else None,
            )
            for kind, (columns, form) in shapes.items()
        }

    @property
    def weight(self) -> mx.array:
        return self._pools["weight"].array

    @property
    def scales(self) -> mx.array:
        return self._pools["scales"].array

    @property
    def biases(self) -> mx.array | None:
        found = self._pools.get("biases")
        return None if found is None else found.array

    @property
    def pools(self) -> dict[str, SlotPool]:
        """The pools by kind of tensor: weight, scales, biases."""
        return self._pools

    def resize(self, kept: list[int], slots: int) -> None:
        """Change the number of slots; the first ones become copies of `kept`."""
        self._pools = {
            kind: pool.resized(kept, slots) for kind, pool in self._pools.items()
        }

    def stack_indices(self, expert_indices: mx.array) -> mx.array:
        return mx.take(self._slots.table, expert_indices)

    def stack_index(self, expert: int) -> int:
        return self._slots[expert]
