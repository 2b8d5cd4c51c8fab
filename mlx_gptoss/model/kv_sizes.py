"""Sizes of KV caches as numbers: slot capacities, slots of a slab, bytes of a pool.

`kv_cache` allocates by these functions, and `memory` plans by them. Needs no MLX, so
that sizes can be printed before it is imported.
"""

from collections import Counter
from collections.abc import Sequence

from mlx_gptoss.format.config import SLIDING, ModelConfig

SMALLEST_CAPACITY = 256  # tokens of a slot
LARGEST_HALF_STEP = 8192  # tokens; larger capacities are multiples of LARGE_STEP
LARGE_STEP = 2048


def slot_capacity(tokens: int) -> int:
    """Return the capacity of the smallest slot that holds `tokens` tokens.

    256, 384, 512, 768, 1,024 and so on to 8,192, then multiples of 2,048. So at most a
    third of a slot is empty, and a growing sequence is rarely copied.
    """
    if tokens > LARGEST_HALF_STEP:
        return -(-tokens // LARGE_STEP) * LARGE_STEP
    unit = SMALLEST_CAPACITY // 2
    return unit * half_step(max(2, -(-tokens // unit)))


def slab_slots(used: int) -> int:
    """Return how many slots a slab has for `used` sequences: 1, 2, 3, 4, 6, 8, 12, …"""
    return half_step(used) if used else 0


def half_step(least: int) -> int:
    """Return the first of 1, 2, 3, 4, 6, 8, 12, 16, 24, … that is `least` or more."""
    power = 1 << (least - 1).bit_length()
    between = power // 4 * 3
    return between if least <= between else power


def pool_bytes(config: ModelConfig, lengths: Sequence[int], *, float_bytes: int) -> int:
    """Return the bytes that a pool allocates for sequences of these lengths (tokens).

    Padding and spare slots are included. Every sequence has a slot of its capacity in
    each full layer, and a ring of the window's size in each sliding layer.
    """
    row = 2 * config.num_key_value_heads * config.head_dim * float_bytes
    sliding = sum(kind == SLIDING for kind in config.layer_types)
    full = len(config.layer_types) - sliding
    counts = Counter(slot_capacity(length) for length in lengths)
    slots = sum(slab_slots(used) * capacity for capacity, used in counts.items())
    rings = slab_slots(len(lengths)) * config.sliding_window
    return row * (full * slots + sliding * rings)
