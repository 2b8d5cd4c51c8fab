"""The affine codec: rows of floats to packed codes and back.

The layout is MLX's `affine`: a group of `group_size` values along a row shares one
scale and one bias, value = scale * code + bias, and the codes are one little-endian
stream of bits. Uses numpy only, so that every machine writes the same bytes. The scale
and bias are rounded to the stored dtype *before* the codes are chosen, which at 8 bits
leaves a fifth less error than choosing the codes first, as `mx.quantize` does. Knows
arrays; nothing of files, names or recipes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Supported bits, and how many times scale and bias are refitted to the chosen codes by
# least squares. It pays where steps are coarse: 5 % less rms error at 4 bits and 9 % at
# 3 on Gaussian rows, nothing at 8.
REFITS = {3: 3, 4: 3, 5: 2, 6: 0, 8: 0}
CODES_PER_LANE = 8  # codes in one 64-bit word while packing
BYTE = 8  # codes of 8 bits need no packing
FLOAT_TYPES = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32}  # as stored
GROUPS_AT_ONCE = 1024  # their values stay in a core's cache


class AffineRows(NamedTuple):
    """Encoded rows; scales and biases are the raw bits of the stored dtype."""

    weight: np.ndarray  # uint32 (R, columns * bits / 32)
    scales: np.ndarray  # (R, columns / group_size)
    biases: np.ndarray  # (R, columns / group_size)


def encode_affine(
    values: np.ndarray, *, bits: int, group_size: int, dtype: str
) -> AffineRows:
    """Encode float32 rows (R, columns) with scales and biases of `dtype`.

    Peak memory: one byte per value for the codes, the result, and a few MB.
    """
    rows, columns = values.shape
    assert columns % group_size == 0, f"{columns=} {group_size=}"
    groups = values.reshape(-1, group_size)
    codes = np.empty(groups.shape, np.uint8)
    floats = np.empty((2, len(groups)), FLOAT_TYPES[dtype])
    scratch = np.empty((3, group_size, GROUPS_AT_ONCE), np.float32)
    for start in range(0, len(groups), GROUPS_AT_ONCE):
        some = slice(start, start + GROUPS_AT_ONCE)
        values, *others = scratch[:, :, : len(groups[some])]
        np.copyto(values, groups[some].T)
        chosen, floats[0, some], floats[1, some] = _encode_groups(
            values, others, bits, dtype
        )
        codes[some] = chosen.astype(np.uint8).T
    shape = (rows, columns // group_size)
    return AffineRows(
        pack_codes(codes.reshape(rows, columns), bits),
        floats[0].reshape(shape),
        floats[1].reshape(shape),
    )


def decode_affine(
    encoded: AffineRows, *, bits: int, group_size: int, dtype: str
) -> np.ndarray:
    """Decode to float32 rows (R, columns)."""
    codes = unpack_codes(encoded.weight, bits).astype(np.float32)
    groups = codes.reshape(*encoded.scales.shape, group_size)
    scale = to_float32(encoded.scales, dtype)[..., None]
    bias = to_float32(encoded.biases, dtype)[..., None]
    return (groups * scale + bias).reshape(codes.shape)


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack uint8 codes (R, columns) into uint32 (R, columns * bits / 32)."""
    rows = codes.shape[0]
    if bits == BYTE:
        return np.ascontiguousarray(codes).view(np.uint32)
    lanes = np.ascontiguousarray(codes).view(np.uint64)
    for width in (8, 16, 32):  # join pairs of neighbours of `width` bits
        lanes = _fold(lanes, width, bits * width // 8)
    packed = lanes.reshape(-1, 1).view(np.uint8)[:, :bits]
    return np.ascontiguousarray(packed).reshape(rows, -1).view(np.uint32)


def unpack_codes(weight: np.ndarray, bits: int) -> np.ndarray:
    """Unpack uint32 (R, words) into uint8 codes (R, words * 32 / bits)."""
    rows = weight.shape[0]
    packed = np.ascontiguousarray(weight).view(np.uint8).reshape(-1, bits)
    lanes = np.zeros((len(packed), CODES_PER_LANE), np.uint8)
    lanes[:, :bits] = packed
    words = lanes.view(np.uint64).reshape(-1)
    codes = np.empty((len(words), CODES_PER_LANE), np.uint8)
    for i in range(CODES_PER_LANE):
        codes[:, i] = (words >> np.uint64(bits * i)) & np.uint64(2**bits - 1)
    return codes.reshape(rows, -1)


def to_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Widen raw bits of a float dtype of safetensors; exact."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    return raw.view(np.float32)


def from_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 to a float dtype of safetensors, ties to even; return the bits."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    return np.ascontiguousarray(values)


def _encode_groups(
    values: np.ndarray, scratch: Sequence[np.ndarray], bits: int, dtype: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encode groups given as columns (group_size, n): codes, scales, biases.

    With groups as columns, sums add their terms in the same order on every machine, and
    each operation covers a whole row of groups. `scratch` is two arrays like `values`;
    the codes are returned in the first, as whole float32 numbers.
    """
    top = np.float32(2**bits - 1)
    biases = from_float32(values.min(axis=0), dtype)
    span = values.max(axis=0) - to_float32(biases, dtype)
    scales = from_float32(span / top, dtype)
    codes, other = scratch
    _choose_codes(values, scales, biases, dtype, top, codes)
    for _ in range(REFITS[bits]):
        scales, biases = _refit(values, codes, other, dtype)
        _choose_codes(values, scales, biases, dtype, top, codes)
    return codes, scales, biases


def _choose_codes(
    values: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    dtype: str,
    top: np.float32,
    codes: np.ndarray,
) -> None:
    """Fill `codes` with the nearest code of each value: 0 to `top`, as float32."""
    scale = to_float32(scales, dtype)
    # The scale of a constant group is 0; any step decodes it to its bias.
    step = np.where(scale > 0, scale, np.float32(1))
    np.subtract(values, to_float32(biases, dtype), out=codes)
    np.divide(codes, step, out=codes)
    np.rint(codes, out=codes)
    np.clip(codes, 0, top, out=codes)


def _refit(
    values: np.ndarray, codes: np.ndarray, scratch: np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fit scale and bias of every group to its codes by least squares.

    Overwrites `codes`; choose them again afterwards.
    """
    mean, code_mean = values.mean(axis=0), codes.mean(axis=0)
    np.subtract(codes, code_mean, out=codes)
    spread = np.square(codes, out=scratch).sum(axis=0)
    np.subtract(values, mean, out=scratch)
    slope = np.multiply(scratch, codes, out=scratch).sum(axis=0)
    slope /= np.where(spread > 0, spread, np.float32(1))
    scales = from_float32(slope, dtype)
    return scales, from_float32(mean - to_float32(scales, dtype) * code_mean, dtype)


def _fold(lanes: np.ndarray, width: int, used: int) -> np.ndarray:
    """Join the two halves of every 2 * `width` bits.

    Each half has `used` bits at its low end; the result has 2 * `used` of them.
    """
    low = sum((2**used - 1) << at for at in range(0, 64, 2 * width))
    kept = lanes & np.uint64(low)
    return kept | ((lanes >> np.uint64(width - used)) & np.uint64(low << used))
