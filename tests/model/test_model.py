"""The model in float32 against tests/support/oracle.py, however tokens are fed."""

from itertools import repeat

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.model.mixture import route
from tests.support import oracle
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.oracle_cases import CASES, TOLERANCE, case, feed


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
    rows = model(mx.array([ids, reversed_ids]))
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
    assert kept.arrays[0].dtype == mx.bfloat16
    error = np.array(rows[0]) - oracle.logits(tensors, config, ids)
    assert np.sqrt((error**2).mean()) < 0.2


def test_the_router_gives_all_weight_to_its_choice() -> None:
    scores = mx.array([[0.0, 3.0, -1.0, 2.0, 1.0]])
    expert_indices, expert_weights = route(scores, 2)
    order = np.argsort(np.array(expert_indices[0]))
    assert np.array(expert_indices[0])[order].tolist() == [1, 3]
    expected = np.exp([3.0, 2.0]) / np.exp([3.0, 2.0]).sum()
    np.testing.assert_allclose(np.array(expert_weights[0])[order], expected, rtol=1e-6)
