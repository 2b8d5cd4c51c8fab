"""Log-probabilities of prompts: those of one full pass, however the prompt is read."""

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.prompt_logprobs import COPIES, POSITIONS, PromptLogprobs
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.errors import MemoryBudgetError, NonFiniteError, PromptError
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import FakeModel, write_tokenizer
from tests.support.submit import Submission

TOLERANCE = 1e-4
ONLY_READ = SamplingParams(max_tokens=0, prompt_logprobs=3)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), seed=1)
    write_tokenizer(folder)
    with load(folder) as runtime:
        yield runtime


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 200, length).tolist()


def in_one_pass(runtime: Runtime, ids: list[int]) -> np.ndarray:
    """Log-softmax (L - 1, V) of the logits before each token but the first."""
    logits = runtime.logits(ids)
    normal = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return np.array(normal)[:-1]


def check(found: PromptLogprobs, expected: np.ndarray, ids: list[int]) -> None:
    place = np.arange(len(ids) - 1)
    own = expected[place, ids[1:]]
    np.testing.assert_allclose(found.logprobs, own, atol=TOLERANCE)
    best = np.sort(expected, axis=-1)[:, ::-1][:, : found.top_ids.shape[1]]
    np.testing.assert_allclose(found.top_logprobs, best, atol=TOLERANCE)
    named = np.take_along_axis(expected, found.top_ids, axis=-1)
    np.testing.assert_allclose(named, best, atol=TOLERANCE)
    above = (expected > own[:, None] + TOLERANCE).sum(axis=-1)
    below = (expected > own[:, None] - TOLERANCE).sum(axis=-1)
    assert (above < found.ranks).all() and (found.ranks <= below).all()


@pytest.mark.parametrize("length", [1, 2, 33, 513, 1300])
def test_they_are_those_of_one_pass(runtime: Runtime, length: int) -> None:
    """Also across chunks of 512 tokens, and at their borders."""
    ids = prompt(length)

    found = runtime.prompt_logprobs(ids, top=3)

    check(found, in_one_pass(runtime, ids), ids)
    assert found.top_ids.shape == (length - 1, 3)


def test_a_prompt_in_the_cache_has_them_all(runtime: Runtime) -> None:
    ids = prompt(300, seed=1)
    for _ in range(2):
        Submission(runtime, ids, SamplingParams(max_tokens=2)).wait()
    found: list[PromptLogprobs] = []

    scored = Submission(runtime, ids, ONLY_READ, on_prompt=found.append)

    assert scored.wait() == []
    assert scored.stats.cached_tokens == 0
    check(found[0], in_one_pass(runtime, ids), ids)
    again = Submission(runtime, ids, SamplingParams(max_tokens=2))
    assert again.stats.cached_tokens > 0  # the cache is as it was


def test_prompts_of_a_batch_have_their_own(runtime: Runtime) -> None:
    """While others decode, and others are read without being scored."""
    prompts = [prompt(40 + 60 * n, seed=n) for n in range(5)]
    expected = [in_one_pass(runtime, ids) for ids in prompts]
    params = SamplingParams(temperature=0, max_tokens=8)
    alone = [[s.token for s in runtime.generate(ids, params)] for ids in prompts]
    found: dict[int, PromptLogprobs] = {}

    def submit_all() -> list[Submission]:
        scored = [
            Submission(
                runtime,
                ids,
                replace(params, prompt_logprobs=n, max_tokens=8 * (n % 2)),
                on_prompt=lambda logprobs, n=n: found.update({n: logprobs}),
            )
            for n, ids in enumerate(prompts)
        ]
        return [*scored, *(Submission(runtime, ids, params) for ids in prompts)]

    asked = runtime.run(submit_all)
    answers = [one.tokens for one in asked]

    for n, ids in enumerate(prompts):
        check(found[n], expected[n], ids)
    assert answers[5:] == alone
    assert [len(answer) for answer in answers[:5]] == [0, 8, 0, 8, 0]
    assert answers[1] == alone[1] and answers[3] == alone[3]


def test_an_answer_follows_in_the_same_stream(runtime: Runtime) -> None:
    ids = prompt(20)
    params = SamplingParams(temperature=0, max_tokens=4)
    alone = list(runtime.generate(ids, params))

    stream = runtime.generate(ids, replace(params, prompt_logprobs=0))

    assert stream.prompt_logprobs is None
    assert [step.token for step in stream] == [step.token for step in alone]
    assert stream.prompt_logprobs is not None
    check(stream.prompt_logprobs, in_one_pass(runtime, ids), ids)


def test_they_continue_a_cache_of_the_caller(runtime: Runtime) -> None:
    ids = prompt(60)
    cache = runtime.new_cache()
    runtime.logits(ids[:30], cache=cache)

    stream = runtime.generate(ids[30:], ONLY_READ, cache=cache)
    assert list(stream) == []

    assert stream.prompt_logprobs is not None
    expected = in_one_pass(runtime, ids)[30:]
    check(stream.prompt_logprobs, expected, ids[30:])
    assert cache.offset == 60


def test_only_reading_a_prompt_ends_for_length(runtime: Runtime) -> None:
    ids = prompt(300, seed=9)

    read = Submission(runtime, ids, SamplingParams(max_tokens=0))

    assert read.wait() == []
    assert (read.stats.finish_reason, read.stats.completion_tokens) == ("length", 0)
    again = Submission(runtime, ids, SamplingParams(max_tokens=0))
    assert again.stats.cached_tokens > 0


def test_a_preempted_prompt_is_scored_again_from_its_start(runtime: Runtime) -> None:
    ids = prompt(1200, seed=4)
    found: list[PromptLogprobs] = []
    scheduler = runtime._scheduler

    def preempt(done: int, total: int) -> None:
        if done < total and scheduler.statistics.paused == paused:
            scheduler._lifecycle.preempt(scheduler._lifecycle.running[0])

    paused = scheduler.statistics.paused
    params = replace(ONLY_READ, max_tokens=2)
    asked = Submission(
        runtime, ids, params, on_prompt=found.append, on_progress=preempt
    )
    asked.wait()

    assert scheduler.statistics.paused == paused + 1
    [logprobs] = found
    check(logprobs, in_one_pass(runtime, ids), ids)


def test_logits_that_are_not_finite_end_the_request() -> None:
    model = FakeModel(lambda ids: [0.0] * 11)  # all but the last position are NaN
    with Runtime(model) as runtime, pytest.raises(NonFiniteError, match="the prompt"):
        runtime.prompt_logprobs([1, 2, 3, 4])


@pytest.mark.parametrize("top", [-1, 21, 1.5])
def test_a_number_out_of_range_is_refused(top: int) -> None:
    with pytest.raises(PromptError, match="`prompt_logprobs` is"):
        SamplingParams(prompt_logprobs=top)


def test_admission_counts_the_logits(runtime: Runtime) -> None:
    budget = KVBudget(runtime.config, runtime.plan, None)
    vocabulary = runtime.config.vocab_size

    more = budget.total_bytes([100], scoring=True) - budget.total_bytes([100])
    assert more == COPIES * POSITIONS * vocabulary * 4
    budget.capacity = budget.total_bytes([101])
    budget.require_fit(100)
    with pytest.raises(MemoryBudgetError, match="and log-probabilities"):
        budget.require_fit(100, scoring=True)


def test_logits_of_a_long_prompt_are_not_held(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Of a vocabulary whose logits would be 6 times what admission counts."""
    vocabulary = 20_000
    folder = write_checkpoint(
        tmp_path_factory.mktemp("wide"), vocab_size=vocabulary, num_hidden_layers=2
    )
    ids = prompt(POSITIONS * COPIES * 6, seed=2)
    with load(folder, batch=BatchOptions(max_running=2)) as runtime:

        def peak_of(params: SamplingParams) -> int:
            list(runtime.generate(ids[:POSITIONS], params))  # what stays is there
            runtime.run(mx.clear_cache)
            runtime.run(mx.reset_peak_memory)
            list(runtime.generate(ids, params))
            return runtime.run(mx.get_peak_memory)

        plain = peak_of(SamplingParams(max_tokens=0))
        scored = peak_of(SamplingParams(max_tokens=0, prompt_logprobs=20))

    assert scored - plain < 1.1 * COPIES * POSITIONS * vocabulary * 4
    assert len(ids) * vocabulary * 4 > 5 * (scored - plain)
