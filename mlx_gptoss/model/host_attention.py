"""Attention in numpy, for many scores on a CPU; the same results as `attention.py`.

MLX's exponential on an x86 CPU takes some 17 ns an element, ten times numpy's, and is
most of the time of a prompt. Evaluates its arguments, so it has no gradient.

Dimensions as in `attention.py`.
"""

from functools import lru_cache

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.host_product import multiply

QUERY_BLOCK = 64  # queries whose scores are in memory at once, of one key head
# Fewer exponentials than this take less time than waiting for the arguments.
MIN_SCORES = 16_384
# Weights below e^-60 of the largest count as 0: close to the least float32 they are
# denormal, and a product with one takes a processor a hundred times as long.
LEAST_EXPONENT = np.float32(-60)


def attend_on_host(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    sinks: mx.array,
    window: int | None,
    ahead: int = 0,
) -> mx.array:
    """Attend q (B, H, L, D) to k, v (B, Hk, S, D); sinks (H,) -> (B, H, L, D).

    All float32. Peak: the scores of a block, H / Hk * QUERY_BLOCK * S floats.
    """
    mx.eval(q, k, v, sinks)
    queries, keys, values = np.asarray(q), np.asarray(k), np.asarray(v)
    B, H, L, D = queries.shape
    Hk = keys.shape[1]
    y = np.empty((B, Hk, H // Hk, L, D), np.float32)
    queries = queries.reshape(y.shape)
    own_sinks = np.asarray(sinks).reshape(Hk, H // Hk)
    for b, h in np.ndindex(B, Hk):
        _attend_key_head(
            queries[b, h],
            keys[b, h],
            values[b, h],
            y[b, h],
            scale=scale,
            sinks=own_sinks[h],
            window=window,
            ahead=ahead,
        )
    return mx.array(y.reshape(B, H, L, D))


def _attend_key_head(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    y: np.ndarray,
    *,
    scale: float,
    sinks: np.ndarray,
    window: int | None,
    ahead: int,
) -> None:
    """Attend the heads q (n, L, D) of one key head, k and v (S, D), into y (n, L, D).

    The sinks (n,) are added to the denominators only.
    """
    (heads, L, D), S = q.shape, len(k)
    for start in range(0, L, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, L)
        rows, own = end - start, S - L + end  # `own`: the last query's, and one
        last = min(S, own + ahead)
        first = 0 if window is None else max(0, own - rows - window + 1)
        block = np.multiply(q[:, start:end], np.float32(scale))
        flat = multiply(block.reshape(heads * rows, D), k[first:last].T)
        scores = flat.reshape(heads, rows, last - first)  # the same memory
        masked = rows if window is None else last - first
        if rows > 1 or window is not None:
            scores[..., -masked:] += _mask(rows, masked, window, ahead, last - own)
        highest = np.maximum(scores.max(axis=-1), sinks[:, None])
        scores -= highest[..., None]
        _exponentiate(scores)
        total = scores.sum(axis=-1) + np.exp(sinks[:, None] - highest)
        found = multiply(flat, v[first:last]).reshape(heads, rows, D)
        np.divide(found, total[..., None], out=y[:, start:end])


def _exponentiate(scores: np.ndarray) -> None:
    """Replace scores, at most 0, by their exponentials; those of the least are 0."""
    np.maximum(scores, LEAST_EXPONENT, out=scores)
    np.exp(scores, out=scores)
    scores -= np.exp(LEAST_EXPONENT)


@lru_cache(maxsize=8)
def _mask(
    rows: int, keys: int, window: int | None, ahead: int, after: int
) -> np.ndarray:
    """Return (rows, keys) float32: 0 where a query sees a key, else -inf.

    The queries are the last `rows` positions before the last `after` keys.
    """
    query = np.arange(keys - after - rows, keys - after)[:, None]
    key = np.arange(keys)[None, :]
    seen = key <= query + ahead
    if window is not None:
        seen &= key > query - window
    return np.where(seen, np.float32(0), np.float32(-np.inf))
