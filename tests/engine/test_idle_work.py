"""Prompts that are prefilled while there is nothing else to do."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from mlx_gptoss.engine.prompt_cache.background import IDLE_CHUNK
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler.idle_work import MAX_IDLE_TASKS
from tests.support.fakes import FakeModel, noisy
from tests.support.submit import PATIENCE, Submission

GREEDY = SamplingParams(temperature=0, max_tokens=3)
LONG = [n % 10 for n in range(3 * IDLE_CHUNK)]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(noisy()) as runtime:
        yield runtime


def held(runtime: Runtime) -> threading.Event:
    """Keep the engine thread busy until the event that is returned is set."""
    release = threading.Event()
    runtime._thread.post(release.wait)
    return release


def test_the_newest_prompt_comes_first_in_small_steps(runtime: Runtime) -> None:
    release = held(runtime)
    older, newer = (runtime.prepare([n, *LONG]) for n in (1, 2))
    release.set()
    for work in (older, newer):
        assert work is not None
        work.result(PATIENCE)

    feeds = runtime.model.feeds
    assert [feed[0] for feed in feeds if feed[0] in (1, 2) and feed[1] == 0] == [2, 1]
    assert max(len(feed) for feed in feeds) == IDLE_CHUNK


def test_requests_come_before_idle_work(runtime: Runtime) -> None:
    release = held(runtime)
    work = runtime.prepare(LONG)
    asked = Submission(runtime, [7, 7, 7], GREEDY)
    release.set()
    asked.wait()
    assert work is not None
    work.result(PATIENCE)

    assert runtime.model.feeds[0] == [7, 7, 7]


def test_other_work_waits_for_one_step_at_most() -> None:
    order: list[str] = []

    def logits_of(ids: list[int]) -> list[float]:
        order.append("idle")
        runtime._thread.post(lambda: order.append("asked"))
        return [0.0, 1.0]

    with Runtime(FakeModel(logits_of)) as runtime:
        work = runtime.prepare(LONG)
        assert work is not None
        work.result(PATIENCE)

    assert order == ["idle", "asked"] * 3


def test_idle_work_waits_while_a_caller_reads_step_by_step(runtime: Runtime) -> None:
    cache = runtime.new_cache()
    stream = runtime.generate([5, 6], GREEDY, cache=cache)
    next(stream)
    work = runtime.prepare(LONG)
    assert work is not None
    runtime.run(lambda: None)
    before = len(runtime.model.feeds)

    list(stream)
    work.result(PATIENCE)

    assert (before, len(runtime.model.feeds)) == (2, 3 + 3)


def test_idle_work_that_fails_is_reported_and_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(ids: list[int]) -> list[float]:
        raise ValueError("no")

    with Runtime(FakeModel(fail)) as runtime:
        work = runtime.prepare(LONG)
        assert work is not None
        while not work.done():
            runtime.run(lambda: None)

    assert work.cancelled()
    assert caplog.messages == ["prefilling a prompt in idle time failed"]


def test_closing_and_too_much_waiting_give_idle_work_up() -> None:
    runtime = Runtime(noisy())
    release = held(runtime)
    waiting = [runtime.prepare([n, *LONG]) for n in range(MAX_IDLE_TASKS + 1)]
    closing = threading.Thread(target=runtime.close)
    release.set()
    closing.start()
    closing.join(PATIENCE)

    assert waiting[0] is not None and waiting[0].cancelled()
    assert all(work is not None and work.done() for work in waiting)


def test_a_prompt_that_comes_after_the_end_is_cancelled(runtime: Runtime) -> None:
    release = held(runtime)
    closing = threading.Thread(target=runtime.close)
    closing.start()
    while runtime._thread._thread._work.empty():  # until it is queued
        closing.join(0.001)
    work = runtime.prepare(LONG)  # `close` is not finished yet
    release.set()
    closing.join()

    assert work is not None
    with pytest.raises(CancelledError):
        work.result(PATIENCE)
