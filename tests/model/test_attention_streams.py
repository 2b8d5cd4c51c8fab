"""Attention of a long prompt on two CPU streams."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.model.attention import (
    TWO_STREAMS_MIN_PRODUCTS,
    Masks,
    attend,
    attend_in_blocks,
)


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("L", [200, 300])
def test_two_streams_give_the_bits_of_one(L: int, window: int | None) -> None:
    draw = np.random.default_rng(L)
    H, Hk, S, D = 8, 2, 700, 32
    q, k, v = (
        mx.array(draw.normal(size=shape).astype(np.float32))
        for shape in ((1, H, L, D), (1, Hk, S, D), (1, Hk, S, D))
    )
    sinks = mx.array(draw.normal(size=H).astype(np.float32))
    assert H * L * (window or S) * D >= TWO_STREAMS_MIN_PRODUCTS

    one, two = (
        np.array(work(q, k, v, scale=0.2, sinks=sinks, window=window, masks=Masks()))
        for work in (attend_in_blocks, attend)
    )

    np.testing.assert_array_equal(one, two)
