"""Batched sampling: each row gets the token it would get alone."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.diagnostics.bench.primitives import count_primitives
from mlx_gptoss.engine.rows import Row, gather_rows
from mlx_gptoss.engine.sampler import (
    SampledToken,
    Sampler,
    SamplerInput,
    _compiled_noise,
    _noise,
    check_bias,
    gumbel_rows,
)
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.token_table import AutomatonMask, TextTokens, build_table
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.automaton import Automaton, State

VOCABULARY = 50
GREEDY = SamplingParams(temperature=0)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 90]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    logit_bias=st.sampled_from([None, {3: 2.0}, {7: -1e308, 0: 1e308}]),
    top_logprobs=st.sampled_from([0, 3, 20]),
)


def chain(*legal: int) -> Automaton:
    """An automaton of a header: one legal token after the other, then text."""
    automaton = Automaton()
    for token in legal:
        state = automaton.add_state(State("header"))
        automaton.edges[state][token] = state + 1
    text = automaton.add_state(State("text", "final"))
    automaton.edges[text][VOCABULARY - 1] = automaton.add_state(State("done"))
    return automaton


TEXT = TextTokens(np.arange(VOCABULARY) < 40)
TABLES = [
    build_table(automaton, text)
    for automaton, text in [
        (chain(41, 42, 3), TEXT),
        (chain(3), TEXT),
        (chain(*range(20, 45)), TextTokens(np.arange(VOCABULARY) < 30)),
    ]
]
MASKS = st.one_of(
    st.none(),
    st.lists(st.booleans(), min_size=VOCABULARY, max_size=VOCABULARY)
    .filter(any)
    .map(np.array),
    st.builds(
        lambda table, state, follow: AutomatonMask(
            table, table.start(state % len(table.starts)), follow
        ),
        st.sampled_from(TABLES),
        st.integers(0, 30),
        st.booleans(),
    ),
)
ROWS = st.tuples(PARAMS, st.integers(0, 2**64 - 1), MASKS)


def logits_of(rows: int, *, ties: bool = False) -> mx.array:
    logits = mx.random.normal((rows, VOCABULARY), key=mx.random.key(rows)) * 3
    return mx.round(logits) if ties else logits


def inputs_of(logits: mx.array, rows: list[Any]) -> list[SamplerInput]:
    return [SamplerInput(Row(logits, b), *row) for b, row in enumerate(rows)]


def found_in(sampled: SampledToken, row: Any) -> tuple[Any, ...]:
    """All that a row gets; a state only if it asked for one."""
    mask = row[2]
    follows = isinstance(mask, AutomatonMask) and mask.follow
    state = sampled.state if follows else None
    return (
        *sampled.result(),
        None if state is None else state.batch[state.number].item(),
    )


@given(st.lists(ROWS, min_size=1, max_size=6), st.booleans())
@settings(deadline=None, max_examples=40)
def test_each_row_gets_what_it_would_get_alone(rows: list[Any], ties: bool) -> None:
    logits = logits_of(len(rows), ties=ties)
    together = Sampler().sample(inputs_of(logits, rows))

    for b, row in enumerate(rows):
        [alone] = Sampler().sample([SamplerInput(Row(logits[b][None], 0), *row)])
        assert found_in(together[b], row) == found_in(alone, row)


@given(st.lists(ROWS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_an_illegal_token_is_never_sampled(rows: list[Any]) -> None:
    rows = [(replace(row[0], logit_bias=None), *row[1:]) for row in rows]
    sampled = Sampler().sample(inputs_of(logits_of(len(rows)), rows))

    for one, (_, _, mask) in zip(sampled, rows, strict=True):
        token, _, _ = one.result()
        if isinstance(mask, AutomatonMask):
            assert isinstance(mask.state, int)
            mask = mask.table.pattern(mask.state).legal(mask.table.text.mask)
        assert mask is None or mask[token]


def test_automata_are_followed_through_tokens_not_computed_yet() -> None:
    """Rows of different automata, and a free one; the batch changes on the way."""
    sampler, logits = Sampler(), logits_of(3)
    states: list[Any] = [TABLES[0].start(0), TABLES[2].start(0)]
    said: list[list[int]] = []
    for step in range(3):
        order = [1, 0] if step == 1 else [0, 1]
        rows = [AutomatonMask(TABLES[(0, 2)[n]], states[n], follow=True) for n in order]
        masks = [*rows, None] if step < 2 else rows
        sampled = sampler.sample(
            [
                SamplerInput(Row(logits, b), GREEDY, 0, mask)
                for b, mask in enumerate(masks)
            ]
        )
        for n, one in zip(order, sampled, strict=False):
            states[n] = one.state
        tokens = dict(zip(order, sampled, strict=False))
        said.append([tokens[n].result()[0] for n in (0, 1)])

    assert said == [[41, 20], [42, 21], [3, 22]]


def test_tables_that_are_dropped_do_not_lose_the_states_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlx_gptoss.engine.mask_table.MAX_BYTES", 1)
    sampler, logits = Sampler(), logits_of(2)

    def sample(*masks: AutomatonMask) -> list[SampledToken]:
        rows = [(GREEDY, 0, mask) for mask in masks]
        return sampler.sample(inputs_of(logits[: len(rows)], rows))

    first, _ = sample(
        AutomatonMask(TABLES[1], TABLES[1].start(0), follow=True),
        AutomatonMask(TABLES[0], TABLES[0].start(0), follow=True),
    )[::-1]
    sample(AutomatonMask(TABLES[2], TABLES[2].start(0), follow=True))
    assert first.state is not None
    [then] = sample(AutomatonMask(TABLES[0], first.state, follow=True))

    assert (first.result()[0], then.result()[0]) == (41, 42)


def test_the_likeliest_come_with_their_values_best_first() -> None:
    logits = logits_of(3)
    four, none = (SamplingParams(temperature=0, top_logprobs=n) for n in (4, 0))
    sampled = Sampler().sample(inputs_of(logits, [(four, 0), (none, 0), (four, 0)]))

    for b in (0, 2):
        token, logprob, top = sampled[b].result()
        values: Any = (logits[b] - mx.logsumexp(logits[b])).tolist()
        best = sorted(enumerate(values), key=lambda x: -x[1])
        assert top == best[:4]
        assert (token, logprob) == top[0]
    assert sampled[1].result()[2] == []


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(top_p=0.9, top_k=40, top_logprobs=3)]
)
def test_a_batch_takes_the_operations_of_one_row(
    params: SamplingParams, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tenth of a decode step, which takes some 300."""
    mask = AutomatonMask(TABLES[0], TABLES[0].start(0), follow=True) if masked else None

    monkeypatch.setattr(mx, "async_eval", lambda arrays: None)

    def operations(count: int) -> int:
        rows = [(params, n, mask) for n in range(count)]
        [sampled, *_] = Sampler().sample(inputs_of(logits_of(count), rows))
        views = {"Broadcast", "Reshape", "Slice", "Squeeze", "ExpandDims"}
        counts = count_primitives(*sampled.batch.arrays)
        return sum(n for name, n in counts.items() if name not in views)

    assert operations(16) <= operations(1) + 3


@pytest.mark.parametrize("seed", [0, 1, 1 << 32, (1 << 64) - 1, 0x9E3779B97F4A7C15])
def test_noise_comes_from_the_key_of_the_seed(seed: int) -> None:
    expected = mx.random.gumbel((9,), key=mx.random.key(seed))
    for seeds in ([seed], [5, seed]):
        assert mx.array_equal(gumbel_rows(seeds, 9)[-1], expected)


@pytest.mark.soak
def test_compiled_noise_is_the_same_noise() -> None:
    """As GPUs compute it; a CPU needs a compiler and seconds for it."""
    keys = mx.array([[1, 2], [3, 4]], mx.uint32)
    for size in (9, 300):
        assert mx.array_equal(_compiled_noise(keys, size), _noise(keys, size))


def test_a_bias_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(PromptError, match="token 4, but the vocabulary has 4"):
        check_bias({4: 1.0}, 4)


def test_rows_are_gathered_in_the_order_they_are_asked_for() -> None:
    """Without an operation if they are one whole batch."""
    one, three = mx.array([7]), mx.array([4, 5, 6])

    def gathered(*rows: tuple[mx.array, int]) -> Any:
        return gather_rows([Row(*row) for row in rows])

    assert gathered((three, 0), (three, 1), (three, 2)) is three
    assert gathered((three, 2), (three, 0)).tolist() == [6, 4]
    assert gathered((three, 0), (three, 1)).tolist() == [4, 5]
    assert gathered((one, 0), (three, 2), (three, 1)).tolist() == [7, 6, 5]
    assert gathered((three, 0), (three, 1), (three, 2), (one, 0)).tolist() == [
        4,
        5,
        6,
        7,
    ]
