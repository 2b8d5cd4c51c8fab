"""Simple encoders of the ggml types that the package `gguf` only decodes.

Every encoder takes float32 (..., columns) and returns bytes (..., columns / 256 * size
of a superblock), by the layouts of ggml-common.h. Scales are those of the largest
value: rough, but what the package decodes is near. Knows nothing of ours.
"""

from collections.abc import Callable

import numpy as np

SUPERBLOCK = 256
IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
)


def half(values: np.ndarray) -> np.ndarray:
    """Round (n, 1) to float16; return its bytes (n, 2)."""
    return np.ascontiguousarray(values.astype(np.float16)).view(np.uint8)


def widened(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def divided(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(values, by, out=np.zeros_like(values), where=by != 0)


def rounded(values: np.ndarray, least: int, most: int) -> np.ndarray:
    return np.clip(np.rint(values), least, most).astype(np.int32)


def packed(codes: np.ndarray, rows: int, bits: int) -> np.ndarray:
    """Pack codes (n, groups, rows, width) of which `rows` share their bytes."""
    n, groups, _, width = codes.shape
    out = np.zeros((n, groups, width), np.int32)
    for row in range(rows):
        out |= codes[:, :, row] << (bits * row)
    return out.reshape(n, groups * width).astype(np.uint8)


def two_level(groups: np.ndarray, top: int, levels: int) -> tuple[np.ndarray, ...]:
    """Choose scales and minima of groups (n, g, w), each as codes up to `levels`.

    Returns float16 scale and minimum (n, 1), their codes (n, g), and the codes.
    """
    minima = np.maximum(-groups.min(axis=2), 0)
    scales = (groups.max(axis=2) + minima) / top
    d, m = (widened(x.max(axis=1, keepdims=True) / levels) for x in (scales, minima))
    sc, mc = (rounded(divided(x, y), 0, levels) for x, y in ((scales, d), (minima, m)))
    step, low = (d * sc)[:, :, None], (m * mc)[:, :, None]
    codes = rounded(divided(groups + low, np.broadcast_to(step, groups.shape)), 0, top)
    return d, m, sc, mc, codes


def signed(groups: np.ndarray, half_range: int, levels: int) -> tuple[np.ndarray, ...]:
    """Choose signed scales of groups (n, g, w): float16 (n, 1), their codes, codes."""
    scales = np.abs(groups).max(axis=2) / half_range
    d = widened(scales.max(axis=1, keepdims=True) / levels)
    sc = rounded(divided(scales, d), 0, levels)
    step = (d * sc)[:, :, None]
    codes = rounded(
        divided(groups, np.broadcast_to(step, groups.shape)),
        -half_range,
        half_range - 1,
    )
    return d, sc, codes


def q2_k(x: np.ndarray) -> np.ndarray:
    d, m, sc, mc, codes = two_level(x.reshape(-1, 16, 16), 3, 15)
    scales = (sc | mc << 4).astype(np.uint8)
    body = packed(codes.reshape(-1, 2, 4, 32), 4, 2)
    return np.concatenate([scales, body, half(d), half(m)], axis=1)


def q3_k(x: np.ndarray) -> np.ndarray:
    d, sc, codes = signed(x.reshape(-1, 16, 16), 4, 31)
    codes = (codes + 4).reshape(-1, 8, 32)
    top = np.zeros((len(codes), 32), np.int32)
    for group in range(8):
        top |= (codes[:, group] >> 2) << group
    six = sc + 32
    low = (six[:, :8] & 15) | ((six[:, 8:] & 15) << 4)
    high = packed((six >> 4).reshape(-1, 1, 4, 4), 4, 2)
    body = packed((codes & 3).reshape(-1, 2, 4, 32), 4, 2)
    parts = [top.astype(np.uint8), body, low.astype(np.uint8), high, half(d)]
    return np.concatenate(parts, axis=1)


def twelve_bytes(sc: np.ndarray, mc: np.ndarray) -> np.ndarray:
    """Pack eight 6-bit scales and minima as in Q4_K."""
    first = (sc[:, :4] & 63) | ((sc[:, 4:] >> 4) << 6)
    second = (mc[:, :4] & 63) | ((mc[:, 4:] >> 4) << 6)
    rest = (sc[:, 4:] & 15) | ((mc[:, 4:] & 15) << 4)
    return np.concatenate([first, second, rest], axis=1).astype(np.uint8)


def q4_k(x: np.ndarray) -> np.ndarray:
    d, m, sc, mc, codes = two_level(x.reshape(-1, 8, 32), 15, 63)
    body = packed(codes.reshape(-1, 4, 2, 32), 2, 4)
    return np.concatenate([half(d), half(m), twelve_bytes(sc, mc), body], axis=1)


def q5_k(x: np.ndarray) -> np.ndarray:
    d, m, sc, mc, codes = two_level(x.reshape(-1, 8, 32), 31, 63)
    top = np.zeros((len(codes), 32), np.int32)
    for group in range(8):
        top |= (codes[:, group] >> 4) << group
    body = packed((codes & 15).reshape(-1, 4, 2, 32), 2, 4)
    head = [half(d), half(m), twelve_bytes(sc, mc), top.astype(np.uint8)]
    return np.concatenate([*head, body], axis=1)


def q6_k(x: np.ndarray) -> np.ndarray:
    d, sc, codes = signed(x.reshape(-1, 16, 16), 32, 127)
    codes = (codes + 32).reshape(-1, 8, 32)
    body = packed((codes & 15).reshape(-1, 2, 2, 64), 2, 4)
    top = packed((codes >> 4).reshape(-1, 2, 4, 32), 4, 2)
    return np.concatenate([body, top, sc.astype(np.uint8), half(d)], axis=1)


def iq4_nl(x: np.ndarray) -> np.ndarray:
    groups = x.reshape(-1, 32)
    at = np.abs(groups).argmax(axis=1)[:, None]
    d = widened(np.take_along_axis(groups, at, axis=1) / -127)
    scaled = divided(groups, np.broadcast_to(d, groups.shape))
    codes = np.abs(scaled[:, :, None] - IQ4_NL_VALUES).argmin(axis=2)
    return np.concatenate([half(d), packed(codes.reshape(-1, 1, 2, 16), 2, 4)], axis=1)


def iq4_xs(x: np.ndarray) -> np.ndarray:
    groups = x.reshape(-1, 8, 32)
    d, sc, _ = signed(groups, 127, 31)
    step = np.broadcast_to((d * sc)[:, :, None], groups.shape)
    scaled = divided(groups, step)
    codes = np.abs(scaled[..., None] - IQ4_NL_VALUES).argmin(axis=3)
    six = sc + 32
    high = packed((six >> 4).reshape(-1, 2, 4, 1), 4, 2)
    low = packed((six & 15).reshape(-1, 4, 2, 1), 2, 4)
    body = packed(codes.reshape(-1, 8, 2, 16), 2, 4)
    return np.concatenate([half(d), high, low, body], axis=1)


def by_rows(encode: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda x: encode(np.asarray(x, np.float32)).reshape(*x.shape[:-1], -1)


ENCODERS = {
    name: by_rows(encode)
    for name, encode in {
        "Q2_K": q2_k,
        "Q3_K": q3_k,
        "Q4_K": q4_k,
        "Q5_K": q5_k,
        "Q6_K": q6_k,
        "IQ4_NL": iq4_nl,
        "IQ4_XS": iq4_xs,
    }.items()
}
