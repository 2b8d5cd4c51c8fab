"""Steps against a reference that reads everything again for every token."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.engine.outputs import Statistics, stop_reasons
from mlx_gptoss.engine.prompt_cache import PinnedLease
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import ModelError, PromptError
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.fakes import FakeModel, byte_tokenizer, noisy, scripted
from tests.support.generate import generate

GREEDY = SamplingParams(temperature=0)
PROMPT = [3, 1, 4, 1, 5]


def slow(model: Any, ids: list[int], count: int) -> Iterator[tuple[int, float]]:
    """Generate greedily without a cache kept: the judge of `generate`."""
    ids = list(ids)
    for _ in range(count):
        hidden = model.hidden(mx.array([ids]), model.make_cache())
        logits = np.array(model.logits(hidden)[0, -1], np.float64)
        token = int(logits.argmax())
        yield token, float(logits[token] - np.log(np.exp(logits).sum()))
        ids.append(token)


def tokens(steps: Any) -> list[int]:
    return [step.token for step in steps]


def test_a_real_model_gives_the_tokens_of_the_slow_reference() -> None:
    config = hf_config(sliding_window=9)
    model = build(config, random_tensors(config, seed=3))
    ids = [int(x) for x in np.random.default_rng(0).integers(0, 90, 23)]
    params = SamplingParams(temperature=0, max_tokens=12)

    steps = list(generate(model, ids, params, chunk=7))

    expected = list(slow(model, ids, 12))
    assert tokens(steps) == [token for token, _ in expected]
    # float32 sums in another order: 1e-4 of logits of size 4
    np.testing.assert_allclose(
        [step.logprob for step in steps],
        [logprob for _, logprob in expected],
        atol=1e-4,
    )


@pytest.mark.parametrize("chunk", [1, 2, 5, 512])
def test_every_way_of_feeding_gives_the_same_steps(chunk: int) -> None:
    params = SamplingParams(seed=5, max_tokens=20)

    steps = list(generate(noisy(), PROMPT, params, chunk=chunk))

    assert steps == list(generate(noisy(), PROMPT, params))


def test_each_token_is_fed_once_and_one_step_ahead() -> None:
    model = scripted([7, 8, 9, 2], prompt=5)

    generation = generate(model, PROMPT, GREEDY, stop_tokens={2: "stop"}, chunk=3)

    assert tokens(generation) == [7, 8, 9, 2]
    assert model.feeds == [[3, 1, 4], [1, 5], [7], [8], [9], [2]]
    assert generation.computed_ids == (*PROMPT, 7, 8, 9, 2)


def test_the_step_after_is_under_way_before_a_token_is_given() -> None:
    model = scripted([7, 8, 9], prompt=5)

    generation = generate(model, PROMPT, GREEDY, cache=model.make_cache())

    assert (next(generation).token, model.feeds[-1]) == (7, [7])
    assert (next(generation).token, model.feeds[-1]) == (8, [8])


@pytest.mark.parametrize(
    ("stop_tokens", "reason"),
    [({9: "stop"}, "stop"), ({9: "tool_calls"}, "tool_calls")],
)
def test_the_stop_token_is_the_last_step(
    stop_tokens: dict[int, str], reason: str
) -> None:
    generation = generate(
        scripted([7, 9, 8], prompt=5), PROMPT, GREEDY, stop_tokens=stop_tokens
    )

    steps = list(generation)

    assert [(step.token, step.finish_reason) for step in steps] == [
        (7, None),
        (9, reason),
    ]
    assert generation.stats.finish_reason == reason


def test_max_tokens_end_with_length_and_nothing_is_fed_for_naught() -> None:
    model = scripted([7, 8, 9, 9], prompt=5)
    params = SamplingParams(temperature=0, max_tokens=3)

    generation = generate(model, PROMPT, params)

    assert [(s.token, s.finish_reason) for s in generation][-1] == (9, "length")
    assert model.feeds[-1] == [8]
    assert generation.computed_ids == (*PROMPT, 7, 8)


def test_the_end_of_the_context_ends_with_length() -> None:
    steps = list(generate(noisy(), PROMPT, GREEDY, context=8))

    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    with pytest.raises(PromptError, match="5 tokens and the context holds 5: shorten"):
        generate(noisy(), PROMPT, GREEDY, context=5)
    with pytest.raises(PromptError, match="prompt is empty"):
        generate(noisy(), [], GREEDY)


def test_a_cache_carries_over_and_counts_against_the_context() -> None:
    model = noisy()
    cache = model.make_cache()
    first = generate(model, PROMPT, GREEDY, cache=cache, context=6)
    list(first)

    second = generate(model, [2, 6], GREEDY, cache=cache, context=9)
    steps = list(second)

    expected = [token for token, _ in slow(noisy(), [*PROMPT, 2, 6], 2)]
    assert tokens(steps) == expected
    assert (second.stats.prompt_tokens, second.stats.cached_tokens) == (7, 5)
    with pytest.raises(PromptError, match="9 tokens"):
        generate(model, [1], GREEDY, cache=cache, context=9)


def test_a_seed_repeats_the_answer_and_no_seed_does_not() -> None:
    def draw(seed: int | None) -> list[int]:
        params = SamplingParams(max_tokens=30, seed=seed)
        return tokens(generate(noisy(), PROMPT, params))

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in (1, 2, 2**64 - 1, None, None)}) == 5


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**70])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    params = SamplingParams(max_tokens=5, seed=seed)

    answers = [tokens(generate(noisy(), PROMPT, params)) for _ in range(2)]

    assert answers[0] == answers[1]


def test_sampling_follows_the_distribution_of_the_logits() -> None:
    """600 draws from (1/2, 1/3, 1/6): five standard deviations are 0.1."""
    shares = np.array([1 / 2, 1 / 3, 1 / 6])
    model = FakeModel(lambda ids: list(np.log(shares)))
    params = SamplingParams(max_tokens=600, seed=0)

    drawn = tokens(generate(model, [0], params))

    np.testing.assert_allclose(np.bincount(drawn) / 600, shares, atol=0.1)


def test_logprobs_are_of_the_unmodified_logits() -> None:
    shares = np.array([0.5, 0.25, 0.2, 0.05])
    model = FakeModel(lambda ids: list(np.log(shares) + 3))
    params = SamplingParams(
        temperature=0, max_tokens=1, logit_bias={3: 100.0}, top_logprobs=2
    )

    [step] = generate(model, [0], params)

    assert (step.token, step.finish_reason) == (3, "length")
    assert [token for token, _ in step.top_logprobs] == [0, 1]
    np.testing.assert_allclose(
        [step.logprob, *(logprob for _, logprob in step.top_logprobs)],
        np.log([0.05, 0.5, 0.25]),
        atol=1e-6,  # float32
    )


def test_progress_counts_the_prompt() -> None:
    seen: list[tuple[int, int]] = []

    next(
        generate(noisy(), PROMPT, GREEDY, chunk=2, progress=lambda *at: seen.append(at))
    )

    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_what_is_in_the_cache_is_recorded_right_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When a stretch is recorded, the cache holds it and nothing later."""
    model = scripted([7, 8, 9], prompt=5)
    cache = model.make_cache()
    told: list[tuple[list[int], int]] = []
    monkeypatch.setattr(
        PinnedLease,
        "record",
        lambda lease, ids: told.append((list(ids), lease.cache.offset)),
    )

    list(
        generate(
            model,
            PROMPT,
            SamplingParams(temperature=0, max_tokens=9),
            stop_tokens={9: "stop"},
            cache=cache,
            chunk=3,
        )
    )

    fed = [PROMPT[:3], PROMPT[3:], [7], [8], [9]]
    assert told == list(zip(fed, [3, 5, 6, 7, 8], strict=True))


def test_cancelling_stops_between_chunks() -> None:
    model = noisy()

    generation = generate(
        model, PROMPT, GREEDY, chunk=2, cancelled=lambda: len(model.feeds) == 1
    )

    assert list(generation) == []
    assert model.feeds == [[3, 1]]
    assert generation.stats.finish_reason == "cancelled"


def test_cancelling_stops_between_steps_and_keeps_what_came() -> None:
    stop = False
    generation = generate(noisy(), PROMPT, GREEDY, cancelled=lambda: stop)

    kept = [next(generation), next(generation)]
    stop = True

    assert list(generation) == []
    assert generation.stats.finish_reason == "cancelled"
    assert generation.stats.completion_tokens == len(kept)


def test_closing_stops_the_work() -> None:
    generation = generate(noisy(), PROMPT, GREEDY)
    next(generation)

    generation.close()

    assert list(generation) == []
    assert generation.stats.finish_reason == "cancelled"


def test_statistics_add_up() -> None:
    params = SamplingParams(temperature=0, max_tokens=4)
    generation = generate(noisy(), PROMPT, params)
    assert generation.stats == Statistics(0, 0)

    list(generation)

    stats = generation.stats
    assert (stats.prompt_tokens, stats.completion_tokens) == (5, 4)
    assert 0 < stats.prompt_seconds <= stats.time_to_first_token
    assert stats.prompt_tokens_per_second == 5 / stats.prompt_seconds
    assert stats.generation_tokens_per_second == 3 / stats.generation_seconds
    assert (stats.finish_reason, stats.peak_memory > 0) == ("length", True)


def test_statistics_of_several_generations_are_added() -> None:
    one = Statistics(10, 2, 5, 1.0, 2.0, 1.0, 300, "tool_calls")
    two = Statistics(20, 12, 7, 3.0, 4.0, 3.0, 200, "stop")

    both = one + two

    assert both == Statistics(30, 14, 12, 4.0, 6.0, 1.0, 300, "stop", 2)
    assert both.prompt_tokens_per_second == 16 / 4.0
    assert both.generation_tokens_per_second == 10 / 6.0


def test_a_failing_model_fails_the_step() -> None:
    def logits_of(ids: list[int]) -> list[float]:
        if len(ids) > 6:
            raise RuntimeError("device lost")
        return [0.0, 1.0]

    generation = generate(FakeModel(logits_of), PROMPT, GREEDY)

    with pytest.raises(ModelError, match="device lost"):
        list(generation)
    assert list(generation) == []


def test_stop_tokens_come_by_name_and_from_the_config() -> None:
    tokenizer = byte_tokenizer()

    reasons = stop_reasons(tokenizer, [300, tokenizer.special("<|call|>")])

    assert reasons == {
        300: "stop",
        tokenizer.special("<|endoftext|>"): "stop",
        tokenizer.special("<|return|>"): "stop",
        tokenizer.special("<|call|>"): "tool_calls",
    }
    assert stop_reasons(None, (2, 3)) == {2: "stop", 3: "stop"}


@pytest.mark.parametrize("name", ["a", "<|end|>", "<|message|>", "<|channel|>"])
def test_no_harmony_answer_ends_at_text_or_inside_a_message(name: str) -> None:
    tokenizer = byte_tokenizer()
    token = ord(name) if len(name) == 1 else tokenizer.special(name)

    assert token not in stop_reasons(tokenizer, [token])
    assert stop_reasons(byte_tokenizer(()), [token]) == {token: "stop"}
