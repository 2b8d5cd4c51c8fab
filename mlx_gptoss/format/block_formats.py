"""The block formats of MLX that are not affine: mxfp4, mxfp8 and nvfp4.

    mode    weight                    scales       values a scale
    mxfp4   FP4, two in a byte        E8M0         32
    mxfp8   FP8 (E4M3), one a byte    E8M0         32
    nvfp4   FP4, two in a byte        FP8 (E4M3)   16

Bytes follow each other along the input; in FP4 the low nibble comes first. E4M3 has a
sign, four exponent bits with bias 7 and three mantissa bits, and no infinity. Sources:
the OCP Microscaling specification 1.0, and MLX's `mx.quantize` for MLX's layout.
"""

import numpy as np

from mlx_gptoss.format.mxfp4 import BYTE_VALUES, E8M0_NAN, SCALE_VALUES

E4M3_NAN = (0x7F, 0xFF)
E4M3_BIAS = 7


def _e4m3_values() -> np.ndarray:
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - E4M3_BIAS)
    values = np.where(exponent == 0, np.ldexp(mantissa / 8, 1 - E4M3_BIAS), normal)
    values[E4M3_NAN[0]] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


E4M3_VALUES = _e4m3_values()  # by byte

# Bytes that are no numbers, by mode and kind of tensor.
NAN_BYTES: dict[str, dict[str, tuple[int, ...]]] = {
    "mxfp4": {"scales": (E8M0_NAN,)},
    "mxfp8": {"scales": (E8M0_NAN,), "weight": E4M3_NAN},
    "nvfp4": {"scales": E4M3_NAN},
}


def decode_blocks(weight: np.ndarray, scales: np.ndarray, mode: str) -> np.ndarray:
    """Decode rows of bytes (rows, n) and scales (rows, groups) to float32. Exact.

    The largest scales of E8M0 can overflow float32 to infinity. Peak: twice the result.
    """
    table = SCALE_VALUES if mode != "nvfp4" else E4M3_VALUES
    if mode == "mxfp8":
        values = E4M3_VALUES[weight]
    else:
        values = BYTE_VALUES.view(np.uint64)[weight, 0].view(np.float32)
    grouped = values.reshape(*scales.shape, -1)
    with np.errstate(over="ignore"):
        grouped = grouped * table[scales][..., None]
    return grouped.reshape(values.shape)
