"""Decoders of ggml's quantized types to bfloat16, bit for bit the `gguf` package's.

    codes    the bits of every value, unpacked to bytes
    values   codes as float32, times the scale of their group, plus or minus its offset

in the order of operations of `gguf.quants.dequantize`, which is llama.cpp's reference;
then rounded to bfloat16, ties to even. Layouts are those of the structs in llama.cpp's
ggml-common.h. Knows blocks (n, bytes of a block), not tensors or files.

Blocks are (n, bytes) uint8, decoded (n, 2 * values) uint8.
"""

from collections.abc import Callable

import numpy as np

from mlx_gptoss.format.layout import VALUES_PER_BLOCK
from mlx_gptoss_convert.read.gguf_blocks import BlockDecoder
from mlx_gptoss_convert.read.gguf_types import READABLE_TYPES, SUPERBLOCK

NIBBLE_SHIFTS = np.array([0, 4], np.uint8)[:, None]
PAIR_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None]  # of four 2-bit codes
BIT_SHIFTS = np.arange(8, dtype=np.uint8)[:, None]
FOUR_BITS, TWO_BITS, ONE_BIT = np.uint8(15), np.uint8(3), np.uint8(1)
SIX_BITS, TOP_TWO = np.uint8(63), np.uint8(0x30)  # of a scale in Q4_K and Q5_K
HALF_BFLOAT16 = np.uint32(0x7FFF)  # almost half of the last place of a bfloat16

# The values of IQ4_NL's codes: `kvalues_iq4nl` in ggml-common.h.
IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
    np.float32,
)
IQ4_NL_LOW = np.tile(IQ4_NL_VALUES, 16)  # by byte
IQ4_NL_HIGH = np.repeat(IQ4_NL_VALUES, 16)


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 (n, m) to bfloat16, ties to even; returns bytes (n, 2 m).

    `values` is overwritten. Its NaNs have the payload that `half_floats` gives them.
    """
    bits = values.view(np.uint32)
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += HALF_BFLOAT16
    bits += odd
    upper = bits.view(np.uint16)[:, 1::2]
    return np.ascontiguousarray(upper).view(np.uint8)


def half_floats(stored: np.ndarray) -> np.ndarray:
    """Widen the bytes (n, 2) of float16 to float32 (n, 1).

    NaNs lose their payload, which rounding to bfloat16 could carry into the sign.
    """
    values = np.ascontiguousarray(stored).view(np.float16).astype(np.float32)
    values[np.isnan(values)] = np.nan
    return values


def unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    """Unpack bytes (n, 16) to codes (n, 32): low nibbles first, then high ones."""
    codes = np.empty((len(packed), VALUES_PER_BLOCK), np.uint8)
    np.bitwise_and(packed, FOUR_BITS, out=codes[:, :16])
    np.right_shift(packed, np.uint8(4), out=codes[:, 16:])
    return codes


def unpack_five_bits(packed: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Unpack nibbles (n, 16) and their top bits (n, 4) to codes (n, 32)."""
    bits = np.unpackbits(np.ascontiguousarray(top), axis=1, bitorder="little")
    bits <<= np.uint8(4)
    bits |= unpack_nibbles(packed)
    return bits


def scaled(codes: np.ndarray, scales: np.ndarray, offset: int = 0) -> np.ndarray:
    """Return (codes - offset) * scales as float32; codes may be signed or not."""
    values = codes.astype(np.float32)
    if offset:
        values -= np.float32(offset)
    values *= scales
    return values


def decode_q4_0(stored: np.ndarray) -> np.ndarray:
    codes = unpack_nibbles(stored[:, 2:])
    return round_to_bfloat16(scaled(codes, half_floats(stored[:, :2]), 8))


def decode_q4_1(stored: np.ndarray) -> np.ndarray:
    values = scaled(unpack_nibbles(stored[:, 4:]), half_floats(stored[:, :2]))
    values += half_floats(stored[:, 2:4])
    return round_to_bfloat16(values)


def decode_q5_0(stored: np.ndarray) -> np.ndarray:
    codes = unpack_five_bits(stored[:, 6:], stored[:, 2:6])
    return round_to_bfloat16(scaled(codes, half_floats(stored[:, :2]), 16))


def decode_q5_1(stored: np.ndarray) -> np.ndarray:
    codes = unpack_five_bits(stored[:, 8:], stored[:, 4:8])
    values = scaled(codes, half_floats(stored[:, :2]))
    values += half_floats(stored[:, 2:4])
    return round_to_bfloat16(values)


def decode_q8_0(stored: np.ndarray) -> np.ndarray:
    codes = stored[:, 2:].view(np.int8)
    return round_to_bfloat16(scaled(codes, half_floats(stored[:, :2])))


def iq4_nl_values(packed: np.ndarray) -> np.ndarray:
    """Return the values (..., 32) of nibbles (..., 16): low ones first."""
    values = np.empty((*packed.shape[:-1], VALUES_PER_BLOCK), np.float32)
    values[..., :16] = IQ4_NL_LOW[packed]
    values[..., 16:] = IQ4_NL_HIGH[packed]
    return values


def decode_iq4_nl(stored: np.ndarray) -> np.ndarray:
    values = iq4_nl_values(stored[:, 2:])
    values *= half_floats(stored[:, :2])
    return round_to_bfloat16(values)


def decode_iq4_xs(stored: np.ndarray) -> np.ndarray:
    """Decode 8 groups of IQ4_NL's values: signed 6-bit scales times one float16."""
    low = (stored[:, 4:8, None] >> NIBBLE_SHIFTS[:, 0]) & FOUR_BITS
    high = (stored[:, 2:4, None] >> PAIR_SHIFTS[:, 0]) & TWO_BITS
    six = low.reshape(-1, 8) | (high.reshape(-1, 8) << np.uint8(4))
    scales = half_floats(stored[:, :2]) * (six.astype(np.float32) - np.float32(32))
    values = iq4_nl_values(stored[:, 8:].reshape(-1, 8, 16))
    values *= scales[:, :, None]
    return round_to_bfloat16(values.reshape(len(stored), SUPERBLOCK))


def group_values(
    codes: np.ndarray,
    groups: int,
    scales: np.ndarray,
    minima: np.ndarray | None = None,
    offset: int = 0,
) -> np.ndarray:
    """Scale the codes of superblocks by group, subtract its minimum, and round.

    codes: 256 per superblock, in any shape (n, ...). scales, minima: (n, groups).
    """
    by_group = codes.reshape(len(codes), groups, -1)
    values = scaled(by_group, scales[:, :, None], offset)
    if minima is not None:
        values -= minima[:, :, None]
    return round_to_bfloat16(values.reshape(len(codes), SUPERBLOCK))


def unpack_pairs(packed: np.ndarray) -> np.ndarray:
    """Unpack 2-bit codes (n, 64) to (n, 2, 4, 32): every 32 bytes hold four rows."""
    codes = packed.reshape(len(packed), 2, 1, 32) >> PAIR_SHIFTS
    codes &= TWO_BITS
    return codes


def decode_q2_k(stored: np.ndarray) -> np.ndarray:
    """Decode 16 groups of 16: 4-bit scales and minima, times two float16."""
    packed = stored[:, :16]
    scales = half_floats(stored[:, 80:82]) * (packed & FOUR_BITS).astype(np.float32)
    minima = half_floats(stored[:, 82:]) * (packed >> np.uint8(4)).astype(np.float32)
    return group_values(unpack_pairs(stored[:, 16:80]), 16, scales, minima)


def decode_q3_k(stored: np.ndarray) -> np.ndarray:
    """Decode 16 groups of 16: signed 6-bit scales; a third bit, set for no offset."""
    codes = unpack_pairs(stored[:, 32:96])
    top = stored[:, :32].reshape(-1, 1, 1, 32) >> BIT_SHIFTS.reshape(2, 4, 1)
    top &= ONE_BIT
    top <<= np.uint8(2)
    codes |= top
    low = (stored[:, None, 96:104] >> NIBBLE_SHIFTS) & FOUR_BITS
    high = (stored[:, None, 104:108] >> PAIR_SHIFTS) & TWO_BITS
    six = low.reshape(-1, 16) | (high.reshape(-1, 16) << np.uint8(4))
    scales = half_floats(stored[:, 108:]) * (six.astype(np.float32) - np.float32(32))
    return group_values(codes, 16, scales, offset=4)


def scales_and_minima(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode the scales and minima (n, 8) of Q4_K and Q5_K from their first 16 bytes.

    Two float16, then 12 bytes: the low 6 bits of four scales and four minima, whose top
    2 bits are those of the other four, and the low nibbles of these.
    """
    first, second, rest = (stored[:, at : at + 4] for at in (4, 8, 12))
    six = (
        np.concatenate(
            [low & SIX_BITS, nibble | ((low >> np.uint8(2)) & TOP_TWO)], axis=1
        )
        for low, nibble in ((first, rest & FOUR_BITS), (second, rest >> np.uint8(4)))
    )
    scales, minima = (codes.astype(np.float32) for codes in six)
    return (
        half_floats(stored[:, :2]) * scales,
        half_floats(stored[:, 2:4]) * minima,
    )


def decode_q4_k(stored: np.ndarray) -> np.ndarray:
    """Decode 8 groups of 32: 6-bit scales and minima, times two float16."""
    codes = stored[:, 16:].reshape(-1, 4, 1, 32) >> NIBBLE_SHIFTS
    codes &= FOUR_BITS
    return group_values(codes, 8, *scales_and_minima(stored))


def decode_q5_k(stored: np.ndarray) -> np.ndarray:
    """Decode Q4_K with a fifth bit of every code, bit g of byte j for group g."""
    codes = stored[:, 48:].reshape(-1, 4, 1, 32) >> NIBBLE_SHIFTS
    codes &= FOUR_BITS
    top = stored[:, None, 16:48] >> BIT_SHIFTS
    top &= ONE_BIT
    top <<= np.uint8(4)
    codes |= top.reshape(codes.shape)
    return group_values(codes, 8, *scales_and_minima(stored))


def decode_q6_k(stored: np.ndarray) -> np.ndarray:
    """Decode 16 groups of 16: int8 scales times one float16; nibbles and 2 top bits."""
    codes = stored[:, :128].reshape(-1, 2, 1, 64) >> NIBBLE_SHIFTS
    codes &= FOUR_BITS
    top = stored[:, 128:192].reshape(-1, 2, 1, 32) >> PAIR_SHIFTS
    top &= TWO_BITS
    top <<= np.uint8(4)
    codes |= top.reshape(codes.shape)
    eight = np.ascontiguousarray(stored[:, 192:208]).view(np.int8)
    scales = half_floats(stored[:, 208:]) * eight.astype(np.float32)
    return group_values(codes, 16, scales, offset=32)


def dequantizer(name: str, decode: Callable[[np.ndarray], np.ndarray]) -> BlockDecoder:
    """Return the decoder of a type to bfloat16."""
    kind = next(entry for entry in READABLE_TYPES.values() if entry.name == name)
    return BlockDecoder(name, kind.nbytes, 2 * kind.block, decode, kind.nbytes, kind)


DECODERS = {
    name: dequantizer(name, decode)
    for name, decode in {
        "Q4_0": decode_q4_0,
        "Q4_1": decode_q4_1,
        "Q5_0": decode_q5_0,
        "Q5_1": decode_q5_1,
        "Q8_0": decode_q8_0,
        "IQ4_NL": decode_iq4_nl,
        "IQ4_XS": decode_iq4_xs,
        "Q2_K": decode_q2_k,
        "Q3_K": decode_q3_k,
        "Q4_K": decode_q4_k,
        "Q5_K": decode_q5_k,
        "Q6_K": decode_q6_k,
    }.items()
}
