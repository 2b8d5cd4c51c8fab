"""Decode 4-bit codes, two a byte, with a scale for each group of values.

In pieces that a core's cache holds, so that memory is that of the result, and of the
codes. Knows codes and scales, nothing of formats.
"""

import numpy as np

from mlx_gptoss.format.dtypes import RAW_DTYPES, to_stored

CODES_PER_BYTE = 2
PIECE_VALUES = 2**16  # decoded at a time


def byte_values(values: np.ndarray, *, high_first: bool) -> np.ndarray:
    """Return both values of every byte, (256, 2) float32, from those of 16 codes."""
    low, high = np.tile(values, 16), np.repeat(values, 16)
    return np.stack([high, low] if high_first else [low, high], axis=-1)


def decode_groups(
    packed: np.ndarray, pairs: np.ndarray, scales: np.ndarray, group: int, dtype: str
) -> np.ndarray:
    """Decode bytes (n,) to 2 n values in the stored dtype `dtype`.

    `pairs` are the values of each byte, (256, 2) float32; `scales` float32, one for
    `group` values, of which the last group may have fewer. Computed in float32 and
    rounded once.
    """
    table = np.ascontiguousarray(pairs).view(np.uint64)[:, 0]
    decoded = np.empty(len(packed) * CODES_PER_BYTE, RAW_DTYPES[dtype])
    step = max(1, PIECE_VALUES // group) * group
    for start in range(0, len(decoded), step):
        stop = min(start + step, len(decoded))
        piece = packed[start // CODES_PER_BYTE : stop // CODES_PER_BYTE]
        values = table[piece].view(np.float32)
        own = scales[start // group : -(-stop // group)]
        if len(values) == len(own) * group:
            values.reshape(-1, group)[:] *= own[:, None]
        else:
            values *= np.repeat(own, group)[: len(values)]
        decoded[start:stop] = to_stored(values, dtype)
    return decoded
