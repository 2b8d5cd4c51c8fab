"""Every layout of resident experts against tests/support/oracle.py."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.format.config import MXFP4, ModelConfig, Quantization
from mlx_gptoss.format.layout import PACKED, SPLIT, Structure
from mlx_gptoss.model.experts.blocks import ExpertBlocks
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.experts.swiglu import (
    interleaved_swiglu_in_training,
    swiglu,
    swiglu_in_training,
    swiglu_plain,
)
from tests.support import oracle
from tests.support.checkpoints import hf_config, random_tensors

AFFINE = Quantization(bits=4, group_size=32, mode="affine")
PATH = "model.layers.0.mlp.experts"
RAW = hf_config(num_local_experts=6, swiglu_limit=1.5)
FORMS = [
    (PACKED, MXFP4),
    (SPLIT, MXFP4),
    (PACKED, AFFINE),
    (SPLIT, AFFINE),
    (PACKED, None),
    (SPLIT, None),
]
# Tokens: decode; a prefill chunk too short to decode for; one of 8 rows an expert.
TOKENS = [1, 2, 11, 40]


def words(blocks: np.ndarray) -> mx.array:
    packed = np.ascontiguousarray(blocks).view(np.uint32)
    return mx.array(packed.reshape(*blocks.shape[:2], -1))


def weights_of(
    name: str, packing: Quantization | None, rows: slice, tensors: dict[str, Any]
) -> dict[str, mx.array]:
    """Return the parameters of one projection; add affine ones to `tensors`."""
    blocks = tensors[f"{PATH}.{name}_blocks"][:, rows]
    scales = tensors[f"{PATH}.{name}_scales"][:, rows]
    bias = mx.array(tensors[f"{PATH}.{name}_bias"][:, rows])
    if packing == MXFP4:
        return {"weight": words(blocks), "scales": mx.array(scales), "bias": bias}
    dense = mx.array(oracle.mxfp4_decode(blocks, scales), mx.float32)
    if packing is None:
        return {"weight": dense.swapaxes(1, 2), "bias": bias}
    weight, scale, biases = mx.quantize(dense, packing.group_size, packing.bits)
    return {"weight": weight, "scales": scale, "biases": biases, "bias": bias}


def made(form: str, packing: Quantization | None) -> tuple[Experts, dict[str, Any]]:
    """Return experts in a layout, and the same tensors for the oracle."""
    tensors: dict[str, Any] = random_tensors(RAW, seed=5)
    names = {
        "gate_up_proj": ("gate_up_proj", slice(None)),
        "gate_proj": ("gate_up_proj", slice(0, None, 2)),
        "up_proj": ("gate_up_proj", slice(1, None, 2)),
        "down_proj": ("down_proj", slice(None)),
    }
    for name in ("gate_up_proj",) if form == SPLIT else ("gate_proj", "up_proj"):
        del names[name]
    settings = {f"{PATH}.{name}": packing for name in names if packing is not None}
    experts = Experts(ModelConfig.from_dict(RAW), Structure(settings, form), PATH)
    experts.eval()
    weights = [
        (f"{name}.{key}", value)
        for name, (source, rows) in names.items()
        for key, value in weights_of(source, packing, rows, tensors).items()
    ]
    experts.load_weights(weights, strict=True)
    if packing == AFFINE:
        for name in ("gate_up_proj", "down_proj"):
            parts = weights_of(name, packing, slice(None), tensors)
            dense = mx.dequantize(
                parts["weight"],
                parts["scales"],
                parts["biases"],
                AFFINE.group_size,
                AFFINE.bits,
            )
            tensors[f"{PATH}.{name}"] = np.array(dense).swapaxes(1, 2)
    return experts, tensors


@pytest.mark.parametrize("count", TOKENS)
@pytest.mark.parametrize(("form", "packing"), FORMS)
def test_every_form_equals_the_oracle(
    form: str, packing: Quantization | None, count: int
) -> None:
    experts, tensors = made(form, packing)
    x = np.random.default_rng(count).normal(size=(count, RAW["hidden_size"]))
    router = oracle.linear(x, tensors, "model.layers.0.mlp.router")
    expert_indices = np.argsort(-router, axis=-1)[:, : RAW["num_experts_per_tok"]]
    expert_weights = oracle.softmax(np.take_along_axis(router, expert_indices, axis=-1))
    found = experts(
        mx.array(x, mx.float32),
        mx.array(expert_indices),
        mx.array(expert_weights, mx.float32),
    )
    expected = oracle.mixture_of_experts(x, tensors, RAW, 0)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(np.array(found), expected, atol=2e-5)


WAYS = {
    "sorted": Experts.apply_sorted,
    "one_by_one": Experts.apply_one_by_one,
    "halved": Experts.apply_on_two_streams,
    "blocks": partial(Experts.apply_in_blocks, decode=False),
    "decoded blocks": partial(Experts.apply_in_blocks, decode=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("form", "packing"), FORMS)
def test_every_way_gives_the_same_rows(
    form: str, packing: Quantization | None, way: str
) -> None:
    experts, _ = made(form, packing)
    draw = np.random.default_rng(0)
    x = mx.array(draw.normal(size=(45, RAW["hidden_size"])), mx.float32)
    expert_indices = np.stack([draw.permutation(6)[:3] for _ in range(45)])
    expert_indices[expert_indices == 4] = 0  # one expert that nobody chose
    found = WAYS[way](experts, x, mx.array(expert_indices))
    plain = experts.apply_gathered(x, mx.array(expert_indices))
    np.testing.assert_allclose(np.array(found), np.array(plain), atol=2e-5)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(("form", "packing"), FORMS)
def test_blocks_have_the_gradient_of_gathered_rows(
    form: str, packing: Quantization | None, decode: bool
) -> None:
    """The judge is MLX's own gradient of plain operations."""
    experts, _ = made(form, packing)
    draw = np.random.default_rng(0)
    x = mx.array(draw.normal(size=(95, RAW["hidden_size"])), mx.float32)
    along = mx.array(draw.normal(size=(95, 3, RAW["hidden_size"])), mx.float32)
    expert_indices = np.stack([draw.permutation(6)[:3] for _ in range(95)])
    expert_indices[expert_indices == 5] = 0  # one expert that nobody chose
    chosen = mx.array(expert_indices)

    def gradient(apply: Callable[..., mx.array]) -> np.ndarray:
        return np.array(mx.grad(lambda x: (apply(x, chosen) * along).sum())(x))

    expected = gradient(experts.apply_gathered)
    experts.train()
    found = gradient(partial(experts.apply_in_blocks, decode=decode))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@given(
    tokens=st.integers(1, 40),
    count=st.integers(1, 9),
    size=st.sampled_from([1, 2, 8]),
    draw=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_a_block_of_its_expert(
    tokens: int, count: int, size: int, draw: random.Random
) -> None:
    T = draw.randint(1, count)
    rows = [draw.sample(range(count), T) for _ in range(tokens)]
    blocks = ExpertBlocks(mx.array(rows), count, size)
    x = mx.arange(tokens)[:, None]
    inside = blocks.dispatch(x)
    assert inside.shape == (len(blocks.experts), size, 1)
    experts = mx.broadcast_to(blocks.experts[:, None, None], inside.shape)
    assert blocks.combine(experts)[..., 0].tolist() == rows
    assert blocks.combine(inside)[..., 0].tolist() == [[n] * T for n in range(tokens)]
    assert (np.diff(np.array(blocks.experts)) >= 0).all()


def test_one_expert_a_token_is_not_halved() -> None:
    experts, _ = made(PACKED, MXFP4)
    x, expert_indices = mx.ones((2, RAW["hidden_size"])), mx.array([[3], [1]])
    found = np.array(experts.apply_on_two_streams(x, expert_indices))
    np.testing.assert_array_equal(
        found, np.array(experts.apply_gathered(x, expert_indices))
    )


def test_two_streams_work_in_any_thread() -> None:
    experts, _ = made(PACKED, MXFP4)
    x, expert_indices = mx.ones((1, RAW["hidden_size"])), mx.array([[3, 1, 0]])
    expected = np.array(experts.apply_on_two_streams(x, expert_indices))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(
            lambda: np.array(experts.apply_on_two_streams(x, expert_indices))
        ).result()
    np.testing.assert_array_equal(found, expected)


def test_gradients_flow_in_training() -> None:
    experts, _ = made(PACKED, MXFP4)
    experts.train()
    expert_indices = mx.array([[0, 1, 2]] * 40)
    expert_weights = mx.ones((40, 3)) / 3

    def loss(x: mx.array) -> mx.array:
        return experts(x, expert_indices, expert_weights).sum()

    gradient = mx.grad(loss)(mx.ones((40, RAW["hidden_size"])))
    assert np.abs(np.array(gradient)).max() > 0


def test_the_gradient_of_the_activation_is_that_of_its_operations() -> None:
    draw = np.random.default_rng(3)
    gate, up, along = mx.array(6 * draw.normal(size=(3, 50, 7)), mx.float32)

    def gradient(function: Callable[..., mx.array]) -> list[np.ndarray]:
        both = mx.grad(lambda *x: (function(*x, 7.0) * along).sum(), (0, 1))(gate, up)
        return [np.array(x) for x in both]

    def interleaved(gate: mx.array, up: mx.array, limit: float) -> mx.array:
        z = mx.stack([gate, up], axis=-1).reshape(50, 14)
        return interleaved_swiglu_in_training(z, limit)

    expected = gradient(swiglu_plain)
    for function in (swiglu_in_training, interleaved):
        assert mx.array_equal(function(gate, up, 7.0), swiglu_plain(gate, up, 7.0))
        for found, judge in zip(gradient(function), expected, strict=True):
            np.testing.assert_allclose(found, judge, atol=1e-5)


def test_the_gate_is_clamped_from_above_only() -> None:
    gate, up = mx.array([-20.0, 9.0, 1.0]), mx.array([3.0, -9.0, 9.0])
    expected = oracle.swiglu(
        np.stack([np.array(gate), np.array(up)], -1).astype(float).ravel(), 7.0
    )
    for function in (swiglu, swiglu_plain):
        np.testing.assert_allclose(
            np.array(function(gate, up, 7.0)), expected, rtol=1e-5
        )
