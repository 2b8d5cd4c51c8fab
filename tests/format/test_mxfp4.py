"""MXFP4 against tests/support/oracle.py and against MLX, byte for byte."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format import mxfp4
from tests.support import oracle

SHAPE = (3, 5, 2)  # experts, rows, blocks


def random_code(seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (*SHAPE, mxfp4.BYTES_PER_BLOCK), dtype=np.uint8)
    return blocks, draw.integers(60, 200, SHAPE, dtype=np.uint8)


def test_decode_equals_the_oracle_exactly() -> None:
    blocks, scales = random_code(0)
    expected = oracle.mxfp4_decode(blocks, scales)
    np.testing.assert_array_equal(mxfp4.decode(blocks, scales), expected)


def test_decode_equals_mlx_for_every_byte_and_scale() -> None:
    scales = np.arange(mxfp4.E8M0_NAN, dtype=np.uint8)[:, None, None]
    blocks = np.arange(256, dtype=np.uint8).reshape(16, 16)
    blocks = np.broadcast_to(blocks, (mxfp4.E8M0_NAN, 16, 16))
    scales = np.broadcast_to(scales, (mxfp4.E8M0_NAN, 16, 1))
    words = mx.array(np.ascontiguousarray(blocks).view(np.uint32))
    theirs = mx.dequantize(words, mx.array(scales), mode="mxfp4", dtype=mx.float32)
    ours = mxfp4.decode(blocks[:, :, None], scales)
    np.testing.assert_array_equal(
        ours.view(np.uint32), np.array(theirs).view(np.uint32)
    )


def test_scale_255_is_not_a_number() -> None:
    blocks = np.full((1, 1, 16), 0x11, np.uint8)
    assert np.isnan(mxfp4.decode(blocks, np.array([[255]], np.uint8))).all()


def test_pack_undoes_unpack() -> None:
    blocks, _ = random_code(1)
    np.testing.assert_array_equal(mxfp4.pack(mxfp4.unpack(blocks)), blocks)


def test_the_low_nibble_comes_first() -> None:
    block = np.zeros((1, 16), np.uint8)
    block[0, 0] = 0x72
    scale = np.array([mxfp4.E8M0_BIAS + 1], np.uint8)
    assert mxfp4.decode(block, scale)[:3].tolist() == [2.0, 12.0, 0.0]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_representable_values_are_encoded_exactly(seed: int) -> None:
    blocks, scales = random_code(seed)
    values = mxfp4.decode(blocks, scales)
    again = mxfp4.decode(*mxfp4.encode(values))
    # Bits, not values: the sign of zero is kept too.
    np.testing.assert_array_equal(again.view(np.uint32), values.view(np.uint32))


@given(
    arrays.arrays(
        np.float32, (4, 32), elements=st.floats(-1e4, 1e4, width=32, allow_nan=False)
    )
)
@settings(max_examples=30, deadline=None)
def test_no_other_scale_has_a_smaller_error(values: np.ndarray) -> None:
    found = mxfp4.decode(*mxfp4.encode(values)).astype(np.float64)
    errors = ((found - values) ** 2).sum(axis=-1)
    for scale in range(mxfp4.E8M0_BIAS - 40, mxfp4.E8M0_BIAS + 14):
        unit = 2.0 ** (scale - mxfp4.E8M0_BIAS)
        grid = oracle.FP4_VALUES * unit
        distance = np.abs(values[..., None] - grid).min(axis=-1)
        assert (errors <= (distance**2).sum(axis=-1) * (1 + 1e-5) + 1e-30).all()


def test_gaussian_weights_lose_no_more_than_the_best_of_three_scales() -> None:
    values = np.random.default_rng(2).normal(0, 0.02, (64, 320)).astype(np.float32)
    error = mxfp4.decode(*mxfp4.encode(values)) - values
    assert 2.1e-3 < np.sqrt((error**2).mean()) < 2.26e-3


def test_slices_do_not_show() -> None:
    values = np.random.default_rng(3).normal(size=(7, 96)).astype(np.float32)
    whole = mxfp4.encode(values)
    sliced = mxfp4.encode(values, blocks_at_once=4)
    for part, expected in zip(sliced, whole, strict=True):
        np.testing.assert_array_equal(part, expected)
    assert (whole[0].shape, whole[1].shape) == ((7, 3, 16), (7, 3))


def test_ties_round_to_the_even_magnitude() -> None:
    halfway = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    assert mxfp4.nearest(halfway).tolist() == [0, 2, 2, 4, 4, 6, 6]


@pytest.mark.parametrize("largest", [0.0, 1e-45, 3e-39, 3.4e38])
def test_the_ends_of_the_float_range_survive(largest: float) -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, 5] = largest
    found = mxfp4.decode(*mxfp4.encode(values))
    assert np.isfinite(found).all()
    # Below 2^-128 there is nothing but zero; above, three bits are kept.
    assert abs(found[0, 5] - values[0, 5]) <= max(2.0**-128, 0.25 * largest)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    values = np.ones((2, 32), np.float32)
    values[1, 3] = bad
    with pytest.raises(ConversionError, match="non-finite"):
        mxfp4.encode(values)
