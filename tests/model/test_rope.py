"""Rotary frequencies against tests/support/oracle.py and published figures."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.rope import (
    attention_scale,
    make_rotation,
    ramp_bounds,
    yarn_periods,
)
from tests.support import oracle
from tests.support.checkpoints import hf_config

YARN = hf_config()["rope_scaling"]
SCALINGS = {"exact": YARN, "rounded": YARN | {"truncate": True}, "none": None}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("head_dim", [64, 16, 6])
def test_periods_and_scale_equal_the_oracles(name: str, head_dim: int) -> None:
    raw = hf_config(rope_scaling=SCALINGS[name], head_dim=head_dim)
    config = ModelConfig.from_dict(raw)
    inverse, magnitude = oracle.yarn(raw)
    np.testing.assert_allclose(1 / yarn_periods(config), inverse, rtol=1e-12)
    expected = magnitude**2 / np.sqrt(head_dim)
    assert attention_scale(config) == pytest.approx(expected, rel=1e-12)


def test_the_bounds_are_those_of_gpt_oss_and_not_rounded() -> None:
    config = ModelConfig.from_dict(hf_config())
    assert config.rope_scaling is not None
    bounds = ramp_bounds(config, config.rope_scaling)
    assert bounds == pytest.approx((8.092779, 17.398025), abs=1e-6)


def test_rounding_would_move_nine_pairs() -> None:
    exact = yarn_periods(ModelConfig.from_dict(hf_config()))
    rounded = yarn_periods(
        ModelConfig.from_dict(hf_config(rope_scaling=SCALINGS["rounded"]))
    )
    ratio = exact / rounded
    assert np.flatnonzero(np.abs(ratio - 1) > 1e-6).tolist() == list(range(9, 18))
    assert ratio.max() == pytest.approx(1.763, abs=1e-3)


@pytest.mark.parametrize(("offset", "length"), [(0, 5), (3, 1), (3000, 7)])
def test_rotation_equals_the_oracles_without_its_factor(
    offset: int, length: int
) -> None:
    raw = hf_config(rope_scaling=None)
    periods = yarn_periods(ModelConfig.from_dict(raw))
    x = np.random.default_rng(0).normal(size=(offset + length, 3, 64))
    expected = oracle.rotate(x, raw)[offset:].swapaxes(0, 1)
    rotate = make_rotation(periods, offset, length)
    found = rotate(mx.array(x[offset:], mx.float32).swapaxes(0, 1)[None])
    np.testing.assert_allclose(np.array(found[0]), expected, atol=2e-6)


def test_rotation_equals_the_fused_kernels() -> None:
    periods = yarn_periods(ModelConfig.from_dict(hf_config()))
    x = mx.random.normal((2, 3, 5, 64), key=mx.random.key(0))
    fused = mx.fast.rope(
        x,
        64,
        traditional=False,
        base=None,
        scale=1.0,
        offset=9,
        freqs=mx.array(periods, mx.float32),
    )
    found = make_rotation(periods, 9, 5)(x)
    np.testing.assert_allclose(np.array(found), np.array(fused), atol=1e-5)


def test_rotation_keeps_bfloat16() -> None:
    x = mx.ones((1, 2, 3, 6), mx.bfloat16)
    assert make_rotation(np.ones(3), 4, 3)(x).dtype == mx.bfloat16
