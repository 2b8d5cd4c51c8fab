"""Attention against plain numpy: sinks, windows, blocks and both implementations."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.model import attention
from mlx_gptoss.model.attention import (
    Masks,
    attend,
    attend_fused,
    attend_plain,
    query_blocks,
)

B, H, Hk, D = 2, 6, 2, 16
SCALE = 0.31
# Queries, keys (a chunk may have earlier keys), window.
SHAPES = [
    (1, 1, None),
    (1, 9, None),
    (5, 5, None),
    (7, 12, None),
    (5, 5, 3),
    (4, 6, 3),
    (11, 13, 3),
    (3, 30, 40),
    (300, 310, None),
    (300, 427, 128),
]


def drawn(L: int, S: int) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    draw = np.random.default_rng(L * 1000 + S)
    shapes = [(B, H, L, D), (B, Hk, S, D), (B, Hk, S, D), (H,)]
    q, k, v, sinks = (mx.array(draw.normal(size=x), mx.float32) for x in shapes)
    return q, k, v, sinks


def expected(
    q: mx.array, k: mx.array, v: mx.array, sinks: mx.array, window: int | None
) -> np.ndarray:
    queries, keys, values, sink = (
        np.array(x.astype(mx.float32), np.float64) for x in (q, k, v, sinks)
    )
    L, S = queries.shape[2], keys.shape[2]
    keys, values = (np.repeat(x, H // Hk, axis=1) for x in (keys, values))
    scores = SCALE * queries @ keys.swapaxes(-1, -2)
    t, p = np.arange(S - L, S)[:, None], np.arange(S)[None, :]
    seen = (p <= t) & (p > t - (window or S + 1))
    weights = np.where(seen, np.exp(scores), 0)
    total = weights.sum(-1, keepdims=True) + np.exp(sink)[:, None, None]
    return weights / total @ values


@pytest.mark.parametrize(("L", "S", "window"), SHAPES)
def test_attend_equals_the_definition(L: int, S: int, window: int | None) -> None:
    q, k, v, sinks = drawn(L, S)
    if L == 1 and window is not None:
        S = min(S, window)
    found = attend(q, k, v, scale=SCALE, sinks=sinks, window=window, masks=Masks())
    np.testing.assert_allclose(
        np.array(found), expected(q, k, v, sinks, window), atol=2e-6
    )


@pytest.mark.parametrize("one_block", [attend_plain, attend_fused])
@pytest.mark.parametrize(("L", "S", "window"), SHAPES)
def test_both_implementations_equal_the_definition(
    one_block: Callable[..., mx.array], L: int, S: int, window: int | None
) -> None:
    q, k, v, sinks = drawn(L, S)
    found = one_block(q, k, v, scale=SCALE, sinks=sinks, window=window, masks=Masks())
    np.testing.assert_allclose(
        np.array(found), expected(q, k, v, sinks, window), atol=2e-6
    )


def test_large_scores_and_sinks_do_not_overflow() -> None:
    q, k, v, sinks = drawn(3, 3)
    q, sinks = q * 1000, sinks * 1000
    for one_block in (attend_plain, attend_fused):
        found = one_block(q, k, v, scale=1.0, sinks=sinks, window=None, masks=Masks())
        assert np.isfinite(np.array(found)).all()


def test_a_window_layer_never_multiplies_keys_far_back() -> None:
    cuts = list(query_blocks(300, 400, 128, 128))
    assert cuts == [
        (slice(0, 128), slice(0, 228)),
        (slice(128, 256), slice(101, 356)),
        (slice(256, 300), slice(229, 400)),
    ]


def test_a_mask_is_made_once_for_all_layers() -> None:
    masks = Masks()
    assert masks.causal(3, 5, 2) is masks.causal(3, 5, 2)
    assert masks.causal_additive(3, 5, 2, 4) is masks.causal_additive(3, 5, 2, 4)


def test_the_visible_keys_of_a_window_include_the_query_itself() -> None:
    assert np.array(attention.causal_mask(3, 5, 2)).astype(int).tolist() == [
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_bfloat16_stays_bfloat16() -> None:
    q, k, v, sinks = drawn(4, 6)
    q, k, v = (x.astype(mx.bfloat16) for x in (q, k, v))
    found = attend(q, k, v, scale=SCALE, sinks=sinks, window=3, masks=Masks())
    assert found.dtype == mx.bfloat16
    np.testing.assert_allclose(
        np.array(found.astype(mx.float32)),
        expected(q, k, v, sinks, 3),
        atol=3e-2,
    )
