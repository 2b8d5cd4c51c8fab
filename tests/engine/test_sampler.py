"""Batched sampling: each row gets the token it would get alone."""

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.engine.sampler import (
    SampledToken,
    SamplerInput,
    log_softmax,
    sample,
    sample_batch,
    stack_tokens,
)
from mlx_gptoss.engine.sampling_params import SamplingParams

VOCABULARY = 50
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.5, 1.0]),
    top_k=st.sampled_from([0, 5]),
    min_p=st.sampled_from([0.0, 0.1]),
    top_logprobs=st.sampled_from([0, 3]),
)
ROW = st.one_of(
    st.none(),
    st.tuples(PARAMS, st.integers(0, 2**64 - 1), st.booleans()),
)


def logits_of(rows: int) -> mx.array:
    return mx.random.normal((rows, VOCABULARY), key=mx.random.key(rows)) * 3


def sample_all(*arguments: Any) -> list[SampledToken]:
    found = sample_batch(*arguments)
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


@given(st.lists(ROW, min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_each_row_gets_what_it_would_get_alone(rows: list[Any]) -> None:
    logits = logits_of(len(rows))
    even = mx.where(mx.arange(VOCABULARY) % 2 == 0, mx.array(0.0), mx.array(-mx.inf))
    inputs: list[SamplerInput | None] = []
    expected: list[Any] = []
    for b, row in enumerate(rows):
        if row is None:
            inputs.append(None)
            expected.append(None)
            continue
        params, seed, masked = row
        legal = logits[b] + even if masked else logits[b]
        inputs.append(SamplerInput(params, seed, legal if masked else None))
        token = sample(legal, params, mx.random.key(seed)).item()
        expected.append((token, log_softmax(logits[b])[token].item()))

    found = [one and one.result() for one in sample_batch(logits, inputs)]
    assert [one and one[:2] for one in found] == expected
    for one, row in zip(found, rows, strict=True):
        assert one is None or len(one[2]) == row[0].top_logprobs


def test_the_likeliest_come_with_their_values_best_first() -> None:
    logits = logits_of(2)
    params = SamplingParams(temperature=0, top_logprobs=4)
    both = sample_all(logits, [SamplerInput(params, 0), SamplerInput(params, 0)])

    for b, one in enumerate(both):
        token, logprob, top = one.result()
        values: Any = log_softmax(logits[b]).tolist()
        best = sorted(enumerate(values), key=lambda x: -x[1])
        assert top == best[:4]
        assert (token, logprob) == top[0]


@pytest.mark.parametrize(
    "order", [[0, 1, 2], [0, 1], [2, 0, 1], [1]], ids=lambda order: str(order)
)
def test_tokens_are_fed_in_the_order_of_their_rows(order: list[int]) -> None:
    """Without a copy if the batch is unchanged; else stacked one by one."""
    three = sample_all(
        logits_of(3), [SamplerInput(SamplingParams(temperature=0), 0)] * 3
    )
    stacked = stack_tokens([three[n] for n in order])

    assert stacked.tolist() == [three[n].result()[0] for n in order]
    assert (stacked is three[0].batch.tokens) == (order == [0, 1, 2])


def test_tokens_of_several_goes_are_fed_together() -> None:
    greedy = SamplerInput(SamplingParams(temperature=0), 0)
    [one] = sample_all(logits_of(1), [greedy])
    two = sample_all(logits_of(2), [greedy, greedy])

    stacked = stack_tokens([two[0], one])
    assert stacked.tolist() == [two[0].result()[0], one.result()[0]]
