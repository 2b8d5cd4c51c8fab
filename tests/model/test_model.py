"""The model against tests/support/oracle.py, in float32, however the tokens are fed."""

from collections.abc import Iterable
from functools import cache
from itertools import repeat
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.model.gpt_oss import GptOss, route
from tests.support import oracle
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors

# Float32 against float64 on logits of size about 4: 1e-4 is seen, a wrong frequency,
# mask or clamp moves them by more than 0.05.
TOLERANCE = 5e-4

# name: (tokens, config overrides)
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "window shorter than the prompt": (45, {}),
    "300 tokens, window 128": (
        300,
        {
            "sliding_window": 128,
            "num_hidden_layers": 4,
            "hidden_size": 128,
            "num_attention_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 4,
        },
    ),
    "window longer than the prompt, 8 heads a key head, clamp binding": (
        37,
        {
            "sliding_window": 50,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "num_local_experts": 7,
            "num_experts_per_tok": 2,
            "swiglu_limit": 1.0,
        },
    ),
    "a key head a head, all layers full": (
        23,
        {
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "num_local_experts": 6,
            "layer_types": ["full_attention"] * 2,
            "num_hidden_layers": 2,
        },
    ),
    "rounded yarn, all layers sliding, all experts": (
        29,
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 4,
            "layer_types": ["sliding_attention"] * 2,
            "num_hidden_layers": 2,
            "sliding_window": 5,
            "rope_scaling": hf_config()["rope_scaling"] | {"truncate": True},
        },
    ),
    "no yarn": (19, {"rope_scaling": None, "head_dim": 16}),
}


@cache
def case(name: str) -> tuple[list[int], np.ndarray, GptOss]:
    """Return ids, the oracle's logits and our model."""
    length, overrides = CASES[name]
    config = hf_config(**overrides)
    tensors = random_tensors(config, seed=3)
    ids = np.random.default_rng(4).integers(0, config["vocab_size"], length).tolist()
    return ids, oracle.logits(tensors, config, ids), build(config, tensors)


def feed(model: GptOss, ids: list[int], sizes: Iterable[int]) -> np.ndarray:
    """Run `ids` through a cache in chunks of `sizes`; return all rows (L, V)."""
    rows, start, kept = [], 0, model.make_cache()
    for size in sizes:
        rows.append(model(mx.array([ids[start : start + size]]), kept)[0])
        mx.eval(rows[-1])
        start += size
        if start >= len(ids):
            break
    assert kept.offset == len(ids)
    return np.array(mx.concatenate(rows))


@pytest.mark.parametrize("name", CASES)
def test_one_pass_gives_the_oracles_logits(name: str) -> None:
    ids, expected, model = case(name)
    rows = np.array(model(mx.array([ids]))[0])
    assert 3 < np.abs(expected).max() < 8
    assert np.abs(rows - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "sizes",
    [[7, 1, 1, 160, 3, 1, 2, 500], [6, 500], [500]],
    ids=["mixed chunks", "two chunks", "one chunk"],
)
def test_chunks_give_the_oracles_logits(name: str, sizes: list[int]) -> None:
    ids, expected, model = case(name)
    assert np.abs(feed(model, ids, sizes) - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_token_by_token_gives_the_oracles_logits(name: str) -> None:
    ids, expected, model = case(name)
    assert np.abs(feed(model, ids, repeat(1)) - expected).max() < TOLERANCE


@pytest.mark.parametrize("window", [127, 129])
def test_the_window_is_neither_one_less_nor_one_more(window: int) -> None:
    name = "300 tokens, window 128"
    ids, _, model = case(name)
    config = hf_config(**CASES[name][1])
    wrong = oracle.logits(
        random_tensors(config, seed=3), config | {"sliding_window": window}, ids
    )
    error = np.abs(np.array(model(mx.array([ids]))[0]) - wrong).max(axis=-1)
    first_different = int(np.argmax(error > TOLERANCE))
    assert first_different == min(window, 128)
    assert error.max() > 0.5


def test_rounded_yarn_would_be_seen() -> None:
    name = "300 tokens, window 128"
    ids, _, model = case(name)
    config = hf_config(**CASES[name][1])
    rounded = config["rope_scaling"] | {"truncate": True}
    wrong = oracle.logits(
        random_tensors(config, seed=3), config | {"rope_scaling": rounded}, ids
    )
    assert np.abs(np.array(model(mx.array([ids]))[0]) - wrong).max() > 0.5


def test_the_clamp_of_the_config_is_obeyed() -> None:
    name = "window longer than the prompt, 8 heads a key head, clamp binding"
    ids, expected, _ = case(name)
    config = hf_config(**CASES[name][1] | {"swiglu_limit": 7.0})
    unclamped = oracle.logits(random_tensors(config, seed=3), config, ids)
    assert np.abs(unclamped - expected).max() > 0.5


def test_a_batch_gives_each_sequence_its_own_logits() -> None:
    ids, expected, model = case("window shorter than the prompt")
    reversed_ids = ids[::-1]
    kept = model.make_cache()
    both = mx.array([ids, reversed_ids])
    rows = mx.concatenate([model(both[:, :30], kept), model(both[:, 30:], kept)], 1)
    alone = np.array(model(mx.array([reversed_ids]))[0])
    assert np.abs(np.array(rows[0]) - expected).max() < TOLERANCE
    assert np.abs(np.array(rows[1]) - alone).max() < TOLERANCE


def test_the_last_row_alone_can_be_unembedded() -> None:
    ids, expected, model = case("window shorter than the prompt")
    row = model.logits(model.hidden(mx.array([ids]))[:, -1:])
    assert row.shape == (1, 1, expected.shape[-1])
    assert np.abs(np.array(row[0, 0]) - expected[-1]).max() < TOLERANCE


@pytest.mark.parametrize("cached", [False, True], ids=["one pass", "in chunks"])
def test_the_last_position_alone_is_what_it_is_among_all(cached: bool) -> None:
    ids, expected, model = case("window shorter than the prompt")
    kept = model.make_cache() if cached else None
    if kept is not None:
        mx.eval(model.hidden(mx.array([ids[:30]]), kept, last=True), kept.arrays)
        ids = ids[30:]
    row = model.logits(model.hidden(mx.array([ids]), kept, last=True))
    assert row.shape == (1, 1, expected.shape[-1])
    assert np.abs(np.array(row[0, 0]) - expected[-1]).max() < TOLERANCE


def test_prefill_may_ask_for_the_last_position_only() -> None:
    ids, expected, model = case("window shorter than the prompt")
    kept = model.make_cache()
    model.hidden(mx.array([ids[:20]]), kept, last=True)
    last = model.hidden(mx.array([ids[20:-1]]), kept, last=True)
    rows = np.array(
        mx.concatenate([model.logits(last), model(mx.array([ids[-1:]]), kept)], 1)[0]
    )
    assert np.abs(rows - expected[-2:]).max() < TOLERANCE


def test_bfloat16_runs_and_stays_near() -> None:
    # A loose bound on purpose: two right bfloat16 stacks differ by tenths here.
    config = hf_config(num_hidden_layers=2)
    tensors = random_tensors(config, seed=3)
    ids = list(range(21))
    model = build(config, tensors, mx.bfloat16)
    kept = model.make_cache()
    rows = mx.concatenate(
        [model(mx.array([ids[:20]]), kept), model(mx.array([ids[20:]]), kept)], 1
    )
    assert rows.dtype == mx.float32
    assert kept.layers[0].arrays[0].dtype == mx.bfloat16
    error = np.array(rows[0]) - oracle.logits(tensors, config, ids)
    assert np.sqrt((error**2).mean()) < 0.2


def test_the_router_gives_all_weight_to_its_choice() -> None:
    scores = mx.array([[0.0, 3.0, -1.0, 2.0, 1.0]])
    expert_indices, expert_weights = route(scores, 2)
    order = np.argsort(np.array(expert_indices[0]))
    assert np.array(expert_indices[0])[order].tolist() == [1, 3]
    expected = np.exp([3.0, 2.0]) / np.exp([3.0, 2.0]).sum()
    np.testing.assert_allclose(np.array(expert_weights[0])[order], expected, rtol=1e-6)
