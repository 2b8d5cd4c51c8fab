"""Check that the device sees bytes written into an array's memory from outside MLX.

MLX exposes writable views of evaluated arrays, and Metal shares its buffers with the
CPU, so it should. This does not rely on it: the check runs once per device, before the
first slot pool is filled, through the same code that fills pools.
"""

from functools import cache

import mlx.core as mx
import numpy as np

from mlx_gptoss.format.config import MXFP4
from mlx_gptoss.model.experts.pool import SlotPool

SLOTS, ROWS, COLUMNS = 4, 8, 64
ROUNDS = 3  # the device may have cached what it read in earlier rounds


def in_place_writes_work() -> bool:
    """Return whether slots can be filled in place on the default device."""
    return _seen(str(mx.default_device()))


@cache
def _seen(_device: str) -> bool:
    return check_writes()


def check_writes() -> bool:
    """Fill slots in place repeatedly; compare products with those of fresh copies."""
    words = COLUMNS * MXFP4.bits // 32
    weight = SlotPool(SLOTS, (ROWS, words), mx.uint32, in_place=True)
    scales = SlotPool(
        SLOTS, (ROWS, COLUMNS // MXFP4.group_size), mx.uint8, in_place=True
    )
    rng = np.random.default_rng(0)
    expert_indices = mx.arange(SLOTS, dtype=mx.uint32)
    x = mx.ones((SLOTS, 1, COLUMNS))
    for _ in range(ROUNDS):
        for slot in range(SLOTS):
            weight.slot_memory(slot)[:] = rng.bytes(weight.slot_bytes)
            scales.slot_memory(slot)[:] = bytes([127] * scales.slot_bytes)
        found = _product(x, weight.array, scales.array, expert_indices)
        expected = _product(
            x,
            mx.array(weight.view.copy()),
            mx.array(scales.view.copy()),
            expert_indices,
        )
        if not mx.array_equal(found, expected):
            return False
    return True


def _product(
    x: mx.array, weight: mx.array, scales: mx.array, expert_indices: mx.array
) -> mx.array:
    return mx.gather_qmm(
        x,
        weight,
        scales,
        rhs_indices=expert_indices,
        transpose=True,
        group_size=MXFP4.group_size,
        bits=MXFP4.bits,
        mode=MXFP4.mode,
    )
