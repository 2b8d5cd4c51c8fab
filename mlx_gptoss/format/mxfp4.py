"""The MXFP4 block format: 32 FP4 values and one power of two, in 17 bytes.

    blocks uint8 (..., G, 16)    two values per byte, the low nibble first
    scales uint8 (..., G)        E8M0: exponent + 127; 255 is not a number

Works on NumPy arrays of a checkpoint file's bytes; MLX multiplies the same bytes,
`blocks.view(uint32)`. Follows the OCP Microscaling specification 1.0; a nibble is
sign << 3 | index into eight magnitudes.
"""

import numpy as np

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.layout import BYTES_PER_BLOCK, VALUES_PER_BLOCK

E8M0_BIAS = 127
E8M0_NAN = 255

MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4_VALUES = np.concatenate([MAGNITUDES, -MAGNITUDES])
SIGN_BIT = 3

# Both values of each byte: one lookup decodes two.
BYTE_VALUES = np.stack(
    [np.tile(FP4_VALUES, 16), np.repeat(FP4_VALUES, 16)], axis=-1
)  # (256, 2)
SCALE_VALUES = np.append(
    np.ldexp(np.float32(1), np.arange(E8M0_NAN) - E8M0_BIAS), np.float32(np.nan)
)

# float32: a sign, 8 exponent bits, 23 mantissa bits, of which FP4 has the first.
_SIZE_BITS = np.uint32(0x7FFFFFFF)
_DROPPED_BITS = np.uint32(22)
_ALMOST_HALF = np.uint32(2**21 - 1)  # of the dropped bits; ties go to the even index
_ONE_BITS = np.float32(1).view(np.uint32)
# Exponent and first mantissa bit as one number: that of index 0, and of the largest.
_INDEX_OF_ZERO = (_ONE_BITS >> _DROPPED_BITS) - np.uint32(2)
_LARGEST_INDEX = _INDEX_OF_ZERO + np.uint32(len(MAGNITUDES) - 1)

# A block's largest magnitude is in [2^k, 2^(k+1)). Scale 2^(k-2) puts it in [4, 8),
# as the specification rounds. One more never clips; one less can win when a single
# value is large; no other scale can have the least error.
_SCALE_CHOICES = (-2, -1, -3)

# Beyond this exponent 6 * 2^e overflows float32; smaller values are on this grid too.
_MAX_EXPONENT = 125

BLOCKS_AT_ONCE = (
    1 << 11
)  # per slice of the encoder, so that its values stay in the CPU cache


def unpack(blocks: np.ndarray) -> np.ndarray:
    """Unpack bytes into nibbles: (..., 16) -> (..., 32) uint8."""
    nibbles = np.stack([blocks & 0xF, blocks >> 4], axis=-1)
    return nibbles.reshape(*blocks.shape[:-1], VALUES_PER_BLOCK)


def pack(nibbles: np.ndarray) -> np.ndarray:
    """Pack nibbles into bytes: (..., 32) -> (..., 16) uint8."""
    return nibbles[..., 0::2] | nibbles[..., 1::2] << 4


def decode(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Decode blocks (..., G, 16) to float32 (..., 32 G). Exact.

    The two largest scales can overflow float32 to infinity; scale 255 gives NaN. Peak:
    twice the result.
    """
    values = BYTE_VALUES.view(np.uint64)[blocks, 0].view(np.float32)
    with np.errstate(over="ignore"):
        values = values * SCALE_VALUES[scales][..., None]
    return values.reshape(*scales.shape[:-1], -1)


def encode(
    values: np.ndarray, *, blocks_at_once: int = BLOCKS_AT_ONCE
) -> tuple[np.ndarray, np.ndarray]:
    """Encode floats (..., 32 G) to the nearest blocks and scales.

    Exact for representable values; other blocks get the scale of least squared error.
    Raises ConversionError for non-finite values. Peak: the result plus one slice.
    """
    *rows, size = values.shape
    assert size % VALUES_PER_BLOCK == 0, f"{values.shape=}"
    flat = values.reshape(-1, VALUES_PER_BLOCK)
    blocks = np.empty((len(flat), BYTES_PER_BLOCK), np.uint8)
    scales = np.empty(len(flat), np.uint8)
    for start in range(0, len(flat), blocks_at_once):
        part = slice(start, start + blocks_at_once)
        nibbles, scales[part] = encode_blocks(flat[part].astype(np.float32))
        blocks[part] = pack(nibbles)
    groups = size // VALUES_PER_BLOCK
    return blocks.reshape(*rows, groups, BYTES_PER_BLOCK), scales.reshape(*rows, groups)


def encode_blocks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encode float32 blocks (N, 32) to nibbles (N, 32) and scale bytes (N,)."""
    largest = np.abs(values).max(axis=-1)
    if not np.isfinite(largest).all():
        raise ConversionError(
            "non-finite values cannot be encoded as MXFP4: check the source"
        )
    first, *others = _SCALE_CHOICES
    k = np.where(largest > 0, np.frexp(largest)[1] - 1, -first)
    exponents = _clip_exponents(k + first)
    nibbles, least = _round_blocks(values, exponents, k)
    lossy = np.flatnonzero(least)  # usually none: such weights were MXFP4 before
    if len(lossy):
        values, k = values[lossy], k[lossy]
    for choice in others if len(lossy) else ():
        exponent = _clip_exponents(k + choice)
        rounded, errors = _round_blocks(values, exponent, k)
        better = errors < least[lossy]
        chosen = lossy[better]
        least[chosen], nibbles[chosen] = errors[better], rounded[better]
        exponents[chosen] = exponent[better]
    return nibbles, (exponents + E8M0_BIAS).astype(np.uint8)


def _clip_exponents(exponents: np.ndarray) -> np.ndarray:
    return np.clip(exponents, -E8M0_BIAS, _MAX_EXPONENT)


def _round_blocks(
    values: np.ndarray, exponents: np.ndarray, k: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return nibbles (N, 32) and squared errors (N,) in units of 4^k."""
    scaled = values * np.ldexp(np.float32(1), -exponents)[:, None]
    nibbles = nearest(scaled)
    errors = np.square(FP4_VALUES.take(nibbles) - scaled).sum(axis=-1)
    return nibbles, np.ldexp(errors, 2 * (exponents - k))


def nearest(scaled: np.ndarray) -> np.ndarray:
    """Round to the nibble of the nearest FP4 value; ties to even, keeping signed zero.

    From 1 up, FP4 is float32 with one mantissa bit, so float32's own bits are rounded;
    below 1 its values are multiples of 0.5.
    """
    bits = scaled.view(np.uint32)
    size = bits & _SIZE_BITS
    index = size >> _DROPPED_BITS
    index &= np.uint32(1)
    index += size
    index += _ALMOST_HALF
    index >>= _DROPPED_BITS
    np.minimum(index, _LARGEST_INDEX, out=index)
    index -= _INDEX_OF_ZERO
    halves = np.rint(size.view(np.float32) * np.float32(2)).astype(np.uint32)
    np.copyto(index, halves, where=size < _ONE_BITS)
    index |= (bits >> np.uint32(31)) << np.uint32(SIGN_BIT)
    return index.astype(np.uint8)
