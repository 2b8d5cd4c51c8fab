"""NumPy dtypes of stored values, and casts between stored floats.

NumPy has no bfloat16; its bits are uint16 here.
"""

import numpy as np

RAW_DTYPES = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
}
BF16_SHIFT = 16  # a bfloat16 is the upper half of a float32
BF16_ROUND = 0x7FFF
BF16_QUIET = 0x0040


def cast(values: np.ndarray, dtype: str, to: np.dtype) -> np.ndarray:
    """Cast stored floats of `dtype` to float32, float16, or bfloat16's bits, uint16.

    What float16 cannot hold becomes infinite.
    """
    if RAW_DTYPES[dtype] == to:
        return values
    floats = bfloat16_to_float32(values) if dtype == "BF16" else values
    floats = floats.astype(np.float32, copy=False)
    if to == np.float16:
        with np.errstate(over="ignore"):
            return floats.astype(np.float16)
    return floats if to == np.float32 else float32_to_bfloat16(floats)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Widen bfloat16 bits; exact."""
    wide = bits.astype(np.uint32)
    wide <<= BF16_SHIFT
    return wide.view(np.float32)


def float32_to_bfloat16(floats: np.ndarray) -> np.ndarray:
    """Round to bfloat16 bits, ties to even; NaN stays NaN."""
    bits = floats.view(np.uint32)
    odd = (bits >> BF16_SHIFT) & 1
    rounded = ((bits + BF16_ROUND + odd) >> BF16_SHIFT).astype(np.uint16)
    broken = np.isnan(floats)
    if broken.any():
        upper = (bits[broken] >> BF16_SHIFT).astype(np.uint16)
        rounded[broken] = upper | BF16_QUIET
    return rounded


def to_stored(floats: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 to the stored dtype `dtype`; bfloat16 is returned as bits."""
    if dtype == "BF16":
        return float32_to_bfloat16(floats)
    return floats.astype(RAW_DTYPES[dtype], copy=False)
