"""Attention and experts in numpy equal MLX's, whatever the scores."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.model import attention, host_attention
from mlx_gptoss.model.attention import Masks, attend
from mlx_gptoss.model.device import forced_gpu_paths, lazy_paths, use_host_paths
from mlx_gptoss.model.experts import host
from mlx_gptoss.model.experts.swiglu import swiglu_plain
from mlx_gptoss.model.host_attention import QUERY_BLOCK, attend_on_host

SCALE = 0.3


def draw_arrays(
    seed: int, B: int, Hk: int, repeats: int, L: int, S: int, spread: float = 1.0
) -> tuple[mx.array, ...]:
    """Return q, k, v and sinks whose scores are about `spread` apart."""
    draw = np.random.default_rng(seed)
    q = draw.normal(size=(B, Hk * repeats, L, 8)) * spread
    k, v = draw.normal(size=(2, B, Hk, S, 8))
    sinks = draw.normal(size=Hk * repeats) * spread
    return tuple(mx.array(x, mx.float32) for x in (q, k, v, sinks))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    B=st.integers(1, 2),
    Hk=st.integers(1, 2),
    repeats=st.integers(1, 3),
    L=st.integers(1, 2 * QUERY_BLOCK + 9),
    before=st.integers(0, 70),
    window=st.none() | st.integers(1, 90),
    spread=st.sampled_from([1.0, 50.0]),
)
def test_any_shape_equals_what_mlx_computes(
    seed: int,
    B: int,
    Hk: int,
    repeats: int,
    L: int,
    before: int,
    window: int | None,
    spread: float,
) -> None:
    q, k, v, sinks = draw_arrays(seed, B, Hk, repeats, L, L + before, spread)
    how: dict[str, Any] = {"scale": SCALE, "sinks": sinks, "window": window}
    found = attend_on_host(q, k, v, **how)
    expected = attend(q, k, v, masks=Masks(), lazy=True, **how)
    assert found.dtype == mx.float32
    atol = 2e-5 if spread == 1 else 5e-4  # of scores in the hundreds
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=atol)


def test_views_of_larger_arrays_are_read_where_they_are() -> None:
    _, k, v, sinks = draw_arrays(1, 3, 2, 2, 1, 400)
    q = mx.random.normal((1, 40, 4, 8)).swapaxes(1, 2)
    how: dict[str, Any] = {"scale": SCALE, "sinks": sinks, "window": None}
    parts = k[1:2, :, 50:200], v[1:2, :, 50:200]
    found = attend_on_host(q, *parts, **how)
    expected = attend(q, *parts, masks=Masks(), lazy=True, **how)
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-5)


def test_a_key_that_is_not_seen_has_no_weight_at_all() -> None:
    q, k, v, sinks = draw_arrays(2, 1, 1, 2, 40, 90)
    loud = mx.concatenate([v[:, :, :-1], mx.full((1, 1, 1, 8), 1e30)], axis=2)
    how: dict[str, Any] = {"scale": SCALE, "sinks": sinks, "window": None}
    found, expected = (attend_on_host(q, k, x, **how) for x in (loud, v))
    assert mx.array_equal(found[:, :, :-1], expected[:, :, :-1])
    assert np.abs(np.array(found[:, :, -1])).max() > 1e20


def test_no_weight_is_denormal() -> None:
    """A product with a denormal takes a hundred times as long."""
    scores = np.linspace(-110, 0, 4000, dtype=np.float32)
    host_attention._exponentiate(scores)
    tiny = np.finfo(np.float32).tiny
    assert ((scores == 0) | (scores > tiny)).all()
    assert (scores[:1000] == 0).all()
    assert scores[-1] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    q, k, v, sinks = draw_arrays(3, 1, 1, 1, 20, 20)
    k = mx.concatenate([k[:, :, :10], mx.full((1, 1, 1, 8), value), k[:, :, 11:]], 2)
    with np.errstate(invalid="ignore"):
        found = attend_on_host(q, k, v, scale=SCALE, sinks=sinks, window=None)
    assert not np.isfinite(np.array(found[:, :, 10:])).all()


def test_many_scores_are_attended_in_numpy_and_few_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[int] = []

    def attended(q: mx.array, *_: object, **__: object) -> mx.array:
        called.append(q.shape[2])
        return q

    monkeypatch.setattr(attention, "attend_on_host", attended)
    how: dict[str, Any] = {"scale": SCALE, "window": None, "masks": Masks()}
    for L in (1, 200):
        q, k, v, sinks = draw_arrays(4, 1, 1, 1, L, 200)
        attend(q, k, v, sinks=sinks, **how)
        attend(q, k, v, sinks=sinks, lazy=True, **how)
        with lazy_paths():
            attend(q, k, v, sinks=sinks, **how)
    assert called == ([200] if use_host_paths(mx.float32) else [])


def test_only_float32_on_a_cpu_is_computed_in_numpy() -> None:
    assert not use_host_paths(mx.bfloat16)
    for lent in (forced_gpu_paths, lazy_paths):
        with lent():
            assert not use_host_paths(mx.float32)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32)
        | st.sampled_from([-1e4, 7.0, np.nan]),
        min_size=2,
        max_size=20,
    )
)
def test_swiglu_equals_what_mlx_computes(values: list[float]) -> None:
    gate = np.array(values, np.float32)[None]
    up = gate[:, ::-1].copy()
    kept = gate.copy(), up.copy()
    found = host.swiglu(gate, up, 7.0)
    expected = swiglu_plain(mx.array(gate), mx.array(up), 7.0)
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal((gate, up), kept)
