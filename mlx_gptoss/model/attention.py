"""Grouped-query attention with sinks and a window; knows nothing of layers or caches.

Every head has one extra logit, its sink, that takes part in the softmax and carries no
value. A query sees the keys up to its own position, or only the last `window` of them.
Keys may start before the queries; both end at the same position. In a model that reads
both ways a query also sees the `ahead` keys behind it; then there is a window.

Dimensions: B batch, L queries, S keys, H query heads, Hk key/value heads, D head dim.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import mlx.core as mx

from mlx_gptoss.model.device import (
    second_stream,
    second_stream_is_free,
    use_gpu_paths,
    use_host_paths,
)
from mlx_gptoss.model.host_attention import MIN_SCORES, attend_on_host

# Queries attended at once on a CPU. Keys after a block are never multiplied, and the
# scores of one block fit the processor's cache.
CPU_QUERY_BLOCK = 128
# From this many multiplications on, heads use two streams on a CPU: 4 ms of a prompt;
# 3 ms of tokens that are decoded, whose products have few rows. A handover: 0.1 ms.
TWO_STREAMS_MIN_PRODUCTS = 4_000_000
TWO_STREAMS_MIN_DECODED = 1_000_000


class Masks:
    """The masks of one forward pass, each built once and shared by all layers."""

    def __init__(self) -> None:
        self._causal: dict[tuple[int, int, int | None, int, int, int], mx.array] = {}
        self._padding: dict[tuple[tuple[int, ...], int, bool], mx.array] = {}

    def causal(
        self, rows: int, keys: int, window: int | None, ahead: int = 0, after: int = 0
    ) -> mx.array:
        """Return (rows, keys) bool, True where a query sees a key."""
        key = (rows, keys, window, 0, ahead, after)
        if key not in self._causal:
            self._causal[key] = causal_mask(rows, keys, window, ahead, after)
        return self._causal[key]

    def causal_additive(
        self,
        rows: int,
        keys: int,
        window: int | None,
        repeats: int,
        ahead: int = 0,
        after: int = 0,
    ) -> mx.array:
        """Return (repeats * rows, keys) float32: 0 where a key is seen, else -inf."""
        key = (rows, keys, window, repeats, ahead, after)
        if key not in self._causal:
            seen = self.causal(rows, keys, window, ahead, after)
            mask = mx.where(seen, mx.array(0.0), mx.array(-mx.inf))
            self._causal[key] = mx.tile(mask, (repeats, 1))
        return self._causal[key]

    def padding(self, lengths: Sequence[int], keys: int, *, additive: bool) -> mx.array:
        """Return (B, 1, 1, keys): whether a key is one of the first `lengths`.

        bool, or with `additive` float32: 0 for a key, -inf for padding.
        """
        key = (tuple(lengths), keys, additive)
        if key not in self._padding:
            seen = mx.arange(keys) < mx.array(list(lengths))[:, None, None, None]
            mask = mx.where(seen, mx.array(0.0), mx.array(-mx.inf))
            self._padding[key] = mask if additive else seen
        return self._padding[key]


def causal_mask(
    rows: int, keys: int, window: int | None, ahead: int = 0, after: int = 0
) -> mx.array:
    """Return which of `keys` some positions see: (rows, keys) bool.

    They are the last `rows` positions before the last `after` keys.
    """
    query = mx.arange(keys - after - rows, keys - after)[:, None]
    key = mx.arange(keys)[None, :]
    seen = key <= query + ahead
    return seen if window is None else seen & (key > query - window)


def attend(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    sinks: mx.array,
    window: int | None,
    masks: Masks,
    lazy: bool = False,
    ahead: int = 0,
) -> mx.array:
    """Attend q (B, H, L, D) to k, v (B, Hk, S, D); sinks (H,) -> (B, H, L, D).

    Evaluates many scores on a CPU at once, in numpy, unless it shall be `lazy`, as a
    gradient needs it.
    """
    (B, H, L, _), S = q.shape, k.shape[2]
    assert not ahead or window is not None, f"{ahead=} without a window"
    keys = S if window is None else min(S, window + ahead)
    how = {"scale": scale, "window": window, "ahead": ahead}
    if not lazy and use_host_paths(q.dtype) and B * H * L * keys >= MIN_SCORES:
        return attend_on_host(q, k, v, sinks=sinks, **how)
    least = TWO_STREAMS_MIN_DECODED if L == 1 else TWO_STREAMS_MIN_PRODUCTS
    run = partial(attend_in_blocks, masks=masks, **how)
    return attend_heads(run, q, k, v, sinks, keys=keys, least=least)


def attend_heads(
    run: Callable[..., mx.array],
    q: mx.array,
    k: mx.array,
    v: mx.array,
    sinks: mx.array,
    *,
    keys: int,
    least: int,
) -> mx.array:
    """Call `run(q, k, v, sinks=sinks)` for all heads, or on a CPU for one half each.

    A CPU stream is one thread, so from `least` products of a query and one of its
    `keys` on, the second half of the heads runs on a second stream. Heads are
    independent: the result is the same.
    """
    B, H, L, D = q.shape
    Hk = k.shape[1]
    if not second_stream_is_free() or Hk % 2 or B * H * L * keys * D < least:
        return run(q, k, v, sinks=sinks)
    h, hk = H // 2, Hk // 2
    first = run(q[:, :h], k[:, :hk], v[:, :hk], sinks=sinks[:h])
    with mx.stream(second_stream()):
        second = run(q[:, h:], k[:, hk:], v[:, hk:], sinks=sinks[h:])
    return mx.concatenate([first, second], axis=1)


def attend_in_blocks(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    sinks: mx.array,
    window: int | None,
    masks: Masks,
    ahead: int = 0,
) -> mx.array:
    """Attend a block of queries at a time; shapes as in `attend`."""
    L, S = q.shape[2], k.shape[2]
    # On a CPU the fused function decomposes, and multiplies head by head.
    plain = not use_gpu_paths() and q.dtype == mx.float32
    step = window or (CPU_QUERY_BLOCK if plain else L)
    one_block = attend_plain if plain else attend_fused
    outputs = [
        one_block(
            q[:, :, rows],
            k[:, :, keys],
            v[:, :, keys],
            scale=scale,
            sinks=sinks,
            window=window,
            masks=masks,
            ahead=ahead,
            after=keys.stop - (S - L + rows.stop),
        )
        for rows, keys in query_blocks(L, S, window, step, ahead)
    ]
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def query_blocks(
    L: int, S: int, window: int | None, step: int, ahead: int = 0
) -> Iterator[tuple[slice, slice]]:
    """Split L queries into blocks, each with the keys that any of its rows sees."""
    for start in range(0, L, step):
        end = min(start + step, L)
        last = min(S, S - L + end + ahead)
        first = 0 if window is None else max(0, S - L + start - window + 1)
        yield slice(start, end), slice(first, last)


def attend_fused(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    sinks: mx.array,
    window: int | None,
    masks: Masks,
    ahead: int = 0,
    after: int = 0,
) -> mx.array:
    """Attend with MLX's fused kernel; the last `after` keys are behind all queries."""
    L, S = q.shape[2], k.shape[2]
    mask: str | mx.array | None = None  # a single query sees all keys it is given
    if L > 1:
        one = window is None
        mask = "causal" if one else masks.causal(L, S, window, ahead, after)
    return mx.fast.scaled_dot_product_attention(
        q, k, v, scale=scale, mask=mask, sinks=sinks.astype(q.dtype)
    )


def attend_plain(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    sinks: mx.array,
    window: int | None,
    masks: Masks,
    ahead: int = 0,
    after: int = 0,
) -> mx.array:
    """Attend with a few plain operations; `after` as in `attend_fused`."""
    L, S, repeats = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    mask = mx.array(0.0)
    if L > 1:
        mask = masks.causal_additive(L, S, window, repeats, ahead, after)
    return attend_masked(q, k, v, mask, scale=scale, sinks=sinks)


def attend_masked(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    mask: mx.array,
    *,
    scale: float,
    sinks: mx.array,
) -> mx.array:
    """Attend under an additive mask: one matrix product per key head.

    The rows of all query heads that share a key head are stacked, so H / Hk * L rows.
    """
    B, H, L, D = q.shape
    Hk, S = k.shape[1:3]
    rows = H // Hk * L
    q, k = q.reshape(B, Hk, rows, D), k.swapaxes(-1, -2)
    scores = mx.addmm(mask, q, k, alpha=scale)  # (B, Hk, rows, S)
    sinks = mx.broadcast_to(sinks[:, None], (B, H, L)).reshape(B, Hk, rows, 1)
    attention_weights = mx.softmax(mx.concatenate([scores, sinks], axis=-1), axis=-1)
    return (attention_weights[..., :S] @ v).reshape(B, H, L, D)


def attend_shared(
    q: mx.array,
    base: tuple[mx.array, mx.array],
    k: mx.array,
    v: mx.array,
    lengths: Sequence[int],
    *,
    scale: float,
    sinks: mx.array,
    masks: Masks,
) -> mx.array:
    """Attend one query per row to a base of all rows, then to the row's own keys.

    q (R, H, 1, D), base (1, Hk, P, D) twice, k and v (R, Hk, S, D) -> (R, H, 1, D).
    The base is read once for all rows: its scores are one product for each key head.
    """
    R, H, _, D = q.shape
    Hk, P, repeats = k.shape[1], base[0].shape[2], H // k.shape[1]
    q = q.reshape(R, Hk, repeats, D)
    together = q.swapaxes(0, 1).reshape(1, Hk, R * repeats, D)
    none = mx.array(0.0, q.dtype)
    scores = mx.addmm(none, together, base[0].swapaxes(-1, -2), alpha=scale)
    mask = masks.padding(lengths, k.shape[2], additive=True).astype(q.dtype)
    own = mx.addmm(mask, q, k.swapaxes(-1, -2), alpha=scale)  # (R, Hk, repeats, S)
    sinks = mx.broadcast_to(sinks.astype(q.dtype)[:, None], (R, H, 1))
    parts = [
        scores.reshape(Hk, R, repeats, P).swapaxes(0, 1),
        own,
        sinks.reshape(R, Hk, repeats, 1),
    ]
    weights = mx.softmax(mx.concatenate(parts, axis=-1), axis=-1, precise=True)
    together = weights[..., :P].swapaxes(0, 1).reshape(1, Hk, R * repeats, P)
    y = (together @ base[1]).reshape(Hk, R, repeats, D).swapaxes(0, 1)
    return (y + weights[..., P:-1] @ v).reshape(R, H, 1, D)


def attend_padded(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    lengths: Sequence[int],
    *,
    scale: float,
    sinks: mx.array,
    masks: Masks,
) -> mx.array:
    """Attend one query per row, q (B, H, 1, D), to the first `lengths` keys of its row.

    k and v (B, Hk, S, D) are padded; -> (B, H, 1, D).
    """
    S = k.shape[2]
    if not use_gpu_paths() and q.dtype == mx.float32:
        mask = masks.padding(lengths, S, additive=True)
        run = partial(attend_masked, mask=mask, scale=scale)
        least = TWO_STREAMS_MIN_DECODED
        return attend_heads(run, q, k, v, sinks, keys=S, least=least)
    return mx.fast.scaled_dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        mask=masks.padding(lengths, S, additive=False),
        sinks=sinks.astype(q.dtype),
    )
