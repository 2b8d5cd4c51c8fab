"""Streams of `generate`: ahead of their readers, not far, and gone with them."""

import gc
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import pytest

from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import RUN_AHEAD, Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.errors import GptOssError, ModelError
from tests.support.fakes import FakeModel, noisy
from tests.support.submit import PATIENCE, Submission

GREEDY = SamplingParams(temperature=0)
FEW = SamplingParams(temperature=0, max_tokens=5)
IDS = [3, 1, 4, 1, 5]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(noisy(), cache=CacheOptions(idle=False)) as runtime:
        yield runtime


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the engine thread does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def busy(runtime: Runtime) -> int:
    return runtime.batch_statistics.running + runtime.batch_statistics.waiting


def test_nothing_is_computed_before_a_step_is_asked_for(runtime: Runtime) -> None:
    stream = runtime.generate(IDS, GREEDY)
    runtime.run(lambda: None)

    stream.close()

    assert (runtime.model.feeds, runtime.batch_statistics.requests) == ([], 0)


def test_the_engine_is_at_most_so_far_ahead(runtime: Runtime) -> None:
    stream = runtime.generate(IDS, GREEDY)
    first = next(stream)
    feeds = runtime.model.feeds
    until(lambda: len(feeds) == 1 + 1 + RUN_AHEAD)
    runtime.run(lambda: None)
    ahead = len(feeds)

    rest = [next(stream) for _ in range(3 * RUN_AHEAD)]

    assert ahead == 1 + 1 + RUN_AHEAD  # the prompt, and the step that was read
    params = SamplingParams(temperature=0, max_tokens=1 + len(rest))
    alone = runtime.generate(IDS, params)
    assert [s.token for s in alone] == [first.token, *(s.token for s in rest)]
    assert stream.stats.completion_tokens == 1 + len(rest)


def test_others_go_on_beside_a_reader_that_does_not_read() -> None:
    with Runtime(noisy(), batch=BatchOptions(max_running=1)) as runtime:
        slow = runtime.generate(IDS, GREEDY)
        next(slow)

        other = [step.token for step in runtime.generate([2, 7], FEW)]

        assert len(other) == 5
        assert [next(slow) for _ in range(2 * RUN_AHEAD)]


def test_a_generation_waits_its_turn_instead_of_being_refused() -> None:
    options = BatchOptions(max_running=1, max_waiting=0)
    with Runtime(noisy(), batch=options) as runtime:
        first = Submission(runtime, IDS, SamplingParams(seed=1, max_tokens=40))
        assert len(list(runtime.generate(IDS, FEW))) == 5
        assert len(first.wait()) == 40


def test_a_stream_that_is_forgotten_is_cancelled(runtime: Runtime) -> None:
    stream = runtime.generate(IDS, GREEDY)
    next(stream)
    del stream
    gc.collect()

    until(lambda: busy(runtime) == 0)
    assert runtime.batch_statistics.cancelled == 1


def test_closing_from_another_thread_ends_a_reader_that_waits() -> None:
    entered, leave = threading.Event(), threading.Event()

    def logits_of(ids: list[int]) -> Sequence[float]:
        if len(ids) > 7:
            entered.set()
            leave.wait(PATIENCE)
        return [0.0, 1.0]

    with Runtime(FakeModel(logits_of)) as runtime:
        stream = runtime.generate(IDS, GREEDY)
        found: list[int] = []
        reader = threading.Thread(
            target=lambda: found.extend(step.token for step in stream)
        )
        reader.start()
        assert entered.wait(PATIENCE)
        closing = threading.Thread(target=stream.close)
        closing.start()
        leave.set()
        closing.join(PATIENCE)
        reader.join(PATIENCE)

        assert not reader.is_alive()
        assert stream.stats.finish_reason == "cancelled"
        assert stream.stats.completion_tokens == len(found)


def test_closing_the_runtime_ends_a_reader_that_waits() -> None:
    runtime = Runtime(noisy())
    stream = runtime.generate(IDS, GREEDY)
    ended = threading.Event()

    def read() -> None:
        for _ in stream:
            pass
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    until(lambda: bool(runtime.batch_statistics.completion_tokens))
    runtime.close()

    assert ended.wait(PATIENCE)


def test_cancelling_drops_the_steps_that_were_not_read(runtime: Runtime) -> None:
    stop = threading.Event()
    stream = runtime.generate(IDS, GREEDY, cancelled=stop.is_set)
    read = [next(stream) for _ in range(3)]
    until(lambda: len(runtime.model.feeds) > RUN_AHEAD)

    stop.set()

    assert list(stream) == []
    assert stream.stats.completion_tokens == len(read)
    assert (stream.stats.finish_reason, busy(runtime)) == ("cancelled", 0)


def test_an_interrupt_while_waiting_ends_the_answer(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = runtime.generate(IDS, GREEDY)
    next(stream)

    def interrupt(entries: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime._scheduler, "wait_for_entry", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(stream)

    assert (list(stream), busy(runtime)) == ([], 0)


def test_steps_before_an_error_are_read_first() -> None:
    def logits_of(ids: list[int]) -> Sequence[float]:
        if len(ids) > 8:
            raise RuntimeError("device lost")
        return [0.0, 1.0]

    with Runtime(FakeModel(logits_of)) as runtime:
        stream = runtime.generate(IDS, GREEDY)
        read = []
        with pytest.raises(ModelError, match="device lost") as raised:
            for step in stream:
                read.append(step)

    cause = raised.value.__cause__
    assert cause is not None
    frames = traceback.extract_tb(cause.__traceback__)
    assert (len(read), frames[-1].name) == (3, "logits_of")


def test_a_stream_can_be_read_in_the_engine_thread(runtime: Runtime) -> None:
    there = runtime.run(lambda: list(runtime.generate(IDS, FEW)))

    assert there == list(runtime.generate(IDS, FEW))


def test_a_callback_that_would_wait_for_itself_is_told(runtime: Runtime) -> None:
    def read(step: object) -> None:
        next(runtime.generate(IDS, FEW))

    asked = Submission(runtime, IDS, FEW, on_step=read)

    with pytest.raises(GptOssError, match="read it in another thread"):
        asked.wait()


def test_a_client_that_does_not_read_leaves_the_batch(runtime: Runtime) -> None:
    """And is the first to be preempted; when it reads, its tokens are the same."""
    params = SamplingParams(seed=3, max_tokens=60)
    alone = [step.token for step in runtime.generate(IDS, params)]
    asked = Submission(runtime, IDS, params, run_ahead=8)
    asked.request.read(0)
    until(lambda: bool(runtime._scheduler._lifecycle.stalled))
    kept = len(asked.steps)
    [sequence] = runtime._scheduler._lifecycle.stalled
    runtime.run(runtime._scheduler._lifecycle.preempt, sequence)
    state = asked.request.state

    while not asked.ended.is_set():
        asked.request.read(len(asked.steps))
        asked.ended.wait(0.001)

    assert (kept, state) == (8, "queued")
    assert asked.tokens == alone
    assert runtime.batch_statistics.paused == 1


def test_a_reader_may_wait_for_a_limited_time() -> None:
    held, model = threading.Event(), noisy()

    def logits_of(ids: Sequence[int]) -> Sequence[float]:
        held.wait()
        return model.logits_of(list(ids))

    with Runtime(FakeModel(logits_of), cache=CacheOptions(idle=False)) as runtime:
        stream = runtime.generate(IDS, FEW)
        assert not stream.wait(0.05)
        held.set()
        assert stream.wait(PATIENCE)
        assert len(list(stream)) == 5 and stream.wait(0) and stream.closed
        assert runtime.run(lambda: _read_in_engine(runtime)) == 5


def _read_in_engine(runtime: Runtime) -> int:
    """Count steps where `wait` cannot: the engine thread computes in `next`."""
    stream, count = runtime.generate(IDS, FEW), 0
    while stream.wait(0) and next(stream, None) is not None:
        count += 1
    return count


def test_a_reader_is_told_once_when_a_step_is_there(runtime: Runtime) -> None:
    told: list[int] = []
    stream, steps = runtime.generate(IDS, FEW), 0
    while not stream.closed:
        place = len(told)
        if not stream.ready(lambda: told.append(threading.get_ident())):
            until(lambda place=place: len(told) > place)
        steps += next(stream, None) is not None

    assert steps == 5
    assert stream.ready(lambda: told.append(0))  # `next` says at once that it ended
    assert set(told) <= {runtime.run(threading.get_ident)}


def test_a_reader_may_wait_for_several_steps(runtime: Runtime) -> None:
    told, came = threading.Event(), list[int]()
    stream = runtime.generate(IDS, FEW)
    while not stream.closed:
        told.clear()
        assert stream.ready(told.set, count=3) or told.wait(PATIENCE)
        came.append(len(list(iter(stream.take, None))))

    assert sum(came) == 5 and came[0] >= 3  # and the last two at the end
    assert stream.take() is None and stream.ready(told.set, count=3)
    assert stream.stats.completion_tokens == 5


def test_who_waits_for_several_steps_gets_those_before_a_cancel(
    runtime: Runtime,
) -> None:
    left, told = threading.Event(), threading.Event()
    stream = runtime.generate(IDS, GREEDY, cancelled=left.is_set)
    assert not stream.ready(told.set, count=10**6)
    until(lambda: len(runtime.model.feeds) > 5)
    left.set()
    assert told.wait(PATIENCE)
    steps = list(iter(stream.take, None))

    assert len(steps) >= 4 and stream.closed
    assert stream.stats.completion_tokens == len(steps)
    assert stream.stats.finish_reason == "cancelled"


def test_a_stream_that_was_cancelled_ends_without_waiting(runtime: Runtime) -> None:
    stream = runtime.generate(IDS, GREEDY)
    stream.cancel()  # not begun: nothing to end
    next(stream)
    stream.cancel()
    until(lambda: busy(runtime) == 0)
    stream.close()

    assert stream.stats.finish_reason == "cancelled"
