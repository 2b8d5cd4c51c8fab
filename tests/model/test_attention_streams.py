"""Attention on two CPU streams: of a long prompt, and of many rows that decode."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.model import attention
from mlx_gptoss.model.attention import (
    TWO_STREAMS_MIN_DECODED,
    TWO_STREAMS_MIN_PRODUCTS,
    Masks,
    attend,
    attend_in_blocks,
    attend_padded,
)

H, HK, D = 8, 2, 32


def draw_heads(rows: int, L: int, S: int) -> tuple[mx.array, ...]:
    """Return q, k, v and sinks."""
    draw = np.random.default_rng(L)
    shapes = (rows, H, L, D), (rows, HK, S, D), (rows, HK, S, D), (H,)
    q, k, v, sinks = (
        mx.array(draw.normal(size=shape).astype(np.float32)) for shape in shapes
    )
    return q, k, v, sinks


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("L", [200, 300])
def test_two_streams_give_the_bits_of_one(L: int, window: int | None) -> None:
    S = 700
    q, k, v, sinks = draw_heads(1, L, S)
    assert H * L * (window or S) * D >= TWO_STREAMS_MIN_PRODUCTS

    one, two = (
        np.array(work(q, k, v, scale=0.2, sinks=sinks, window=window, masks=Masks()))
        for work in (attend_in_blocks, partial(attend, lazy=True))
    )

    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("rows", "S"), [(1, 4096), (6, 700), (16, 320)])
def test_rows_that_decode_give_the_bits_of_one_stream(
    rows: int, S: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v, sinks = draw_heads(rows, 1, S)
    assert rows * H * S * D >= TWO_STREAMS_MIN_DECODED
    lengths = [S - row for row in range(rows)]
    used = []
    second_stream = attention.second_stream

    def count() -> mx.ThreadLocalStream:
        used.append(1)
        return second_stream()

    monkeypatch.setattr(attention, "second_stream", count)

    def work() -> np.ndarray:
        options = {"scale": 0.2, "sinks": sinks, "masks": Masks()}
        if rows == 1:
            return np.array(attend(q, k, v, window=None, lazy=True, **options))
        return np.array(attend_padded(q, k, v, lengths, **options))

    two = work()
    assert used == [1]
    monkeypatch.setattr(attention, "TWO_STREAMS_MIN_DECODED", 1 << 40)
    one = work()

    assert used == [1]
    np.testing.assert_array_equal(one, two)
