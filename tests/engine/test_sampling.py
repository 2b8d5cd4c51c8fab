"""Sampling: each filter, their order, determinism and validation."""

from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.engine.batch_settings import BatchSettings
from mlx_gptoss.engine.logprobs import top_logprobs
from mlx_gptoss.engine.sampler import sample_rows
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError

# Probabilities 0.4, 0.3, 0.2, 0.1, out of order.
PROBABILITIES = np.array([0.2, 0.4, 0.1, 0.3])
LOGITS = mx.array(np.log(PROBABILITIES), mx.float32) + 5


def finite_ids(logits: mx.array) -> list[int]:
    return np.flatnonzero(np.isfinite(np.array(logits))).tolist()


def kept(logits: mx.array, **settings: Any) -> list[list[int]]:
    """The token ids that each row (B, V) may still be sampled from."""
    params = [SamplingParams(**settings)] * len(logits)
    return [finite_ids(row) for row in BatchSettings(params).filter(logits)]


def sampled(logits: mx.array, params: SamplingParams, seed: int = 0) -> list[int]:
    """Sample from rows (B, V) with the seeds from `seed` on."""
    rows = len(logits)
    tokens = sample_rows(
        logits, BatchSettings([params] * rows), range(seed, seed + rows)
    )
    assert (tokens.shape, tokens.dtype) == ((rows,), mx.int32)
    return cast("list[int]", tokens.tolist())


def frequencies(params: SamplingParams, count: int = 4000) -> np.ndarray:
    """Return how often each token of LOGITS is sampled over independent rows."""
    rows = mx.broadcast_to(LOGITS, (count, LOGITS.size))
    tokens = np.array(sampled(rows, params, seed=7))
    return np.bincount(tokens, minlength=LOGITS.size) / count


def test_temperature_zero_takes_the_largest() -> None:
    rows = mx.stack([LOGITS, LOGITS[::-1]])
    assert sampled(rows, SamplingParams(temperature=0)) == [1, 2]


def test_temperature_one_draws_with_the_models_probabilities() -> None:
    # 4000 draws: a standard deviation is below 0.008.
    np.testing.assert_allclose(frequencies(SamplingParams()), PROBABILITIES, atol=0.04)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    expected = PROBABILITIES ** (1 / temperature)
    expected /= expected.sum()
    found = frequencies(SamplingParams(temperature=temperature))
    np.testing.assert_allclose(found, expected, atol=0.04)


def test_temperature_comes_before_top_p() -> None:
    # Sharpened to 0.53, 0.3, 0.13, 0.03, two tokens reach 0.75; as they are, three.
    found = frequencies(SamplingParams(temperature=0.5, top_p=0.75))
    assert np.flatnonzero(found).tolist() == [1, 3]


@pytest.mark.parametrize(("k", "tokens"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3])])
def test_top_k_keeps_the_k_largest(k: int, tokens: list[int]) -> None:
    assert kept(LOGITS[None], top_k=k) == [tokens]


def test_top_k_keeps_exactly_k_among_equals() -> None:
    assert [len(row) for row in kept(mx.zeros((2, 9)), top_k=4)] == [4, 4]


@pytest.mark.parametrize(
    ("p", "tokens"),
    [(0.0, [1]), (0.39, [1]), (0.41, [1, 3]), (0.71, [0, 1, 3]), (0.95, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_p(p: float, tokens: list[int]) -> None:
    assert kept(LOGITS[None], top_p=p) == [tokens]


def test_top_p_is_of_what_top_k_keeps() -> None:
    # Of 0.4 and 0.3 alone the first is 0.57; of all four it is 0.4.
    assert kept(LOGITS[None], top_p=0.5, top_k=2) == [[1]]
    assert kept(LOGITS[None], top_p=0.5) == [[1, 3]]


@pytest.mark.parametrize(("p", "tokens"), [(0.6, [1, 3]), (0.3, [0, 1, 3]), (1, [1])])
def test_min_p_is_relative_to_the_likeliest(p: float, tokens: list[int]) -> None:
    assert kept(LOGITS[None], min_p=p) == [tokens]


def test_filters_work_on_every_row_of_a_batch() -> None:
    rows = mx.stack([LOGITS, LOGITS[::-1]])
    for settings in ({"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.6}):
        assert kept(rows, **settings) == [[1, 3], [0, 2]]


def test_a_setting_that_is_off_in_a_row_changes_nothing_there() -> None:
    """Down to the last bit, although the sum of probabilities passes 1."""
    logits = mx.random.normal((2, 5000), key=mx.random.key(3)) * 0.01
    bound = SamplingParams(temperature=0.5, top_k=3, top_p=0.5, min_p=0.9)
    free = BatchSettings([SamplingParams(), bound]).filter(logits)
    assert mx.array_equal(free[0], logits[0])
    assert len(finite_ids(free[1])) == 2


def test_logit_bias_is_added_before_all_else() -> None:
    rows = mx.stack([LOGITS, LOGITS, LOGITS])
    biases = [{2: 3.0, 1: -1.0}, None, {0: -1e308}]
    params = [SamplingParams(logit_bias=bias) for bias in biases]
    biased = BatchSettings(params).add_bias(rows)
    assert sampled(biased, SamplingParams(temperature=0)) == [2, 1, 1]


def test_one_seed_one_token() -> None:
    rows = mx.random.normal((50, 9), key=mx.random.key(1))
    params = SamplingParams(top_p=0.9, min_p=0.01, top_k=7)
    first, second, other = (sampled(rows, params, seed=n) for n in (5, 5, 6))
    assert first == second
    assert first != other


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    assert sampled(LOGITS[None], SamplingParams(temperature=1e-30)) == [1]


def test_top_logprobs_are_best_first() -> None:
    logprobs = mx.array(np.log(PROBABILITIES), mx.float32)
    tokens, values = top_logprobs(logprobs[None])
    assert tokens.tolist() == [[1, 3, 0, 2]]
    expected = np.log([[0.4, 0.3, 0.2, 0.1]])
    np.testing.assert_allclose(np.array(values), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "`temperature` is -0.1, expected a number, 0 or more"),
        ({"temperature": float("nan")}, "`temperature` is nan"),
        ({"temperature": True}, "`temperature` is True"),
        ({"top_p": 1.5}, "`top_p` is 1.5, expected a number from 0 to 1"),
        ({"top_k": -1}, "`top_k` is -1, expected a whole number, 0 or more"),
        ({"top_k": 2.0}, "`top_k` is 2.0"),
        ({"min_p": 2}, "`min_p` is 2"),
        ({"max_tokens": -1}, "`max_tokens` is -1, expected a whole number, 0 or more"),
        ({"seed": 1.5}, "`seed` is 1.5, expected a whole number"),
        ({"top_logprobs": 21}, "`top_logprobs` is 21"),
        ({"logit_bias": {"5": 1.0}}, "`logit_bias token` is '5'"),
        ({"logit_bias": {5: float("inf")}}, "`logit_bias[5]` is inf"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        SamplingParams(**settings)
    assert message in str(caught.value)
