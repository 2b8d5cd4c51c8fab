"""Whatever comes, in whatever order, and whoever leaves: each answer is its own."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from tests.support.fakes import noisy
from tests.support.submit import Submission

STOP = 3  # a token that ends an answer


@dataclass(frozen=True)
class Request:
    """A prompt, how it is answered, and after how many tokens its reader leaves.

    `pauses` are steps behind which it gives its cache back, as if memory were short.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    leaves: int | None
    pauses: frozenset[int]


REQUESTS = some.lists(
    some.builds(
        Request,
        # Few different beginnings, so that prompts share what was read.
        some.builds(
            lambda stem, rest: (0, 1, 2) * stem + tuple(rest),
            some.integers(0, 60),
            some.lists(some.integers(0, 10), min_size=1, max_size=9),
        ),
        some.builds(
            SamplingParams,
            seed=some.integers(0, 9),
            temperature=some.sampled_from([0, 1]),
            max_tokens=some.integers(1, 12),
        ),
        some.none() | some.integers(1, 4),
        some.frozensets(some.integers(0, 5), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    """One for all examples: what one of them leaves behind the next one finds."""
    options = BatchOptions(max_running=3)
    cache = CacheOptions(idle=False, memory=900)  # of the fake: a byte a token
    with Runtime(noisy(), cache=cache, batch=options) as runtime:
        yield runtime


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(requests=REQUESTS)
def test_every_answer_is_the_one_it_has_alone(
    runtime: Runtime, requests: list[Request]
) -> None:
    asked = [Caller(runtime, request) for request in requests]
    found = [one.asked.wait() for one in asked]

    for request, steps in zip(requests, found, strict=True):
        alone = runtime.generate(request.prompt, request.params, stop_tokens=END)
        expected = list(islice(alone, request.leaves))
        alone.close()
        assert steps == expected
    runtime.run(lambda: None)  # the round that ended the last one is over
    done = runtime.batch_statistics
    assert (done.running, done.waiting, done.failed) == (0, 0, 0)
    lives = runtime.run(lambda: runtime._scheduler.prompts.open()._caches)
    assert [live for live in lives if live.busy] == []


END = {STOP: "stop"}


class Caller:
    """One who asks, leaves early if so wished, and has its request paused."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._runtime, self._request = runtime, request
        self._there = threading.Event()
        self.asked = Submission(
            runtime,
            request.prompt,
            request.params,
            stop_tokens=END,
            on_step=self._step,
        )
        self._there.set()

    def _step(self, step: object) -> None:
        self._there.wait()
        count, ticket = len(self.asked.steps), self.asked.request
        if count == self._request.leaves:
            ticket.cancel()
        if count in self._request.pauses:
            engine = self._runtime._scheduler

            def pause() -> None:
                if ticket._sequence in engine._lifecycle.running:
                    engine._lifecycle.preempt(ticket._sequence)

            self._runtime._thread.post(pause)
