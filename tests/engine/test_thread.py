"""The engine thread: order of work, exceptions, early ends, idle tasks and closing."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import pytest

from mlx_gptoss.engine.thread import MAX_IDLE_TASKS, EngineThread, ThreadIterator
from mlx_gptoss.errors import GptOssError

PATIENCE = 60  # seconds, for work that takes none
T = TypeVar("T")


@pytest.fixture
def engine_thread() -> Iterator[EngineThread]:
    engine_thread = EngineThread("work")
    yield engine_thread
    engine_thread.close()


def iterate(
    engine_thread: EngineThread, make: Callable[[], Iterator[T]]
) -> ThreadIterator[T]:
    """Make an iterator in the engine thread, to be read here."""
    return ThreadIterator(engine_thread, engine_thread.call(make))


def test_all_work_happens_in_one_other_thread(engine_thread: EngineThread) -> None:
    threads: list[int] = []

    def items() -> Iterator[int]:
        for item in range(3):
            threads.append(threading.get_ident())
            yield item

    taken = list(iterate(engine_thread, items))

    assert taken == [0, 1, 2]
    assert set(threads) == {engine_thread.call(threading.get_ident)} - {
        threading.get_ident()
    }


def test_an_item_is_made_only_when_it_is_asked_for(engine_thread: EngineThread) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(9):
            made.append(item)
            yield item

    reader = iterate(engine_thread, items)

    assert (next(reader), next(reader), made) == (0, 1, [0, 1])


def test_readers_take_turns_and_calls_come_between(engine_thread: EngineThread) -> None:
    one, two = (
        iterate(engine_thread, lambda: iter("ab")),
        iterate(engine_thread, lambda: iter("xy")),
    )

    taken = [next(one), next(two), engine_thread.call(str, 1), next(two), next(one)]

    assert taken == ["a", "x", "1", "y", "b"]


def test_an_exception_crosses_over_and_ends_the_iterator(
    engine_thread: EngineThread,
) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    reader = iterate(engine_thread, items)

    assert next(reader) == 1
    with pytest.raises(ValueError, match="two"):
        next(reader)
    assert list(reader) == []


def test_a_reader_that_leaves_early_stops_the_work(engine_thread: EngineThread) -> None:
    ended: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            ended.append(threading.current_thread().name)

    with ThreadIterator(
        engine_thread, items(), lambda: ended.append("cancelled")
    ) as reader:
        next(reader)

    assert ended == ["cancelled", "mlx-engine"]
    assert list(reader) == []


def test_an_interrupted_reader_cancels_the_item_being_made(
    engine_thread: EngineThread,
) -> None:
    cancelled = threading.Event()

    class Interrupted(EngineThread):
        def call(self, work, /, *args, **options):  # type: ignore[no-untyped-def]
            if work is next:
                raise KeyboardInterrupt
            return super().call(work, *args, **options)

    impatient = Interrupted("impatient")
    reader = ThreadIterator(impatient, iter("ab"), cancelled.set)

    with pytest.raises(KeyboardInterrupt):
        next(reader)
    assert cancelled.is_set()
    impatient.close()


def test_the_owner_may_call_itself(engine_thread: EngineThread) -> None:
    assert engine_thread.call(
        lambda: engine_thread.call(
            lambda: list(iterate(engine_thread, range(2).__iter__))
        )
    )


def test_closing_ends_open_iterators_then_runs_the_last_work() -> None:
    engine_thread = EngineThread("brief")
    order: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            order.append("iterator")

    reader = iterate(engine_thread, items)
    next(reader)
    engine_thread.close(lambda: order.append("last"))
    engine_thread.close(lambda: order.append("again"))

    assert order == ["iterator", "last"]
    assert list(reader) == []
    with pytest.raises(GptOssError, match="`brief` is closed: load it again"):
        engine_thread.call(int)


def test_many_threads_are_served_in_full(engine_thread: EngineThread) -> None:
    results: list[list[int]] = []

    def read(start: int) -> None:
        results.append(list(iterate(engine_thread, range(start, start + 50).__iter__)))

    readers = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()

    assert sorted(results) == [list(range(start, start + 50)) for start in range(4)]


def test_a_closed_owner_leaves_its_thread_to_the_next() -> None:
    first = EngineThread("first")
    thread = first.call(threading.get_ident)
    first.close()
    first.close()

    second, third = EngineThread("second"), EngineThread("third")

    assert second.call(threading.get_ident) == thread
    assert third.call(threading.get_ident) != thread
    second.close()
    third.close()


def test_a_forgotten_owner_leaves_its_thread_too() -> None:
    engine_thread = EngineThread("forgotten")
    thread = engine_thread.call(threading.get_ident)

    del engine_thread
    gc.collect()
    heir = EngineThread("heir")

    assert heir.call(threading.get_ident) == thread
    heir.close()


def counted(order: list[str], steps: int) -> Callable[[], bool]:
    """Return idle work of so many steps, each of which leaves a mark."""

    def step() -> bool:
        order.append("idle")
        return order.count("idle") < steps

    return step


def test_idle_work_is_done_while_nobody_asks(engine_thread: EngineThread) -> None:
    order: list[str] = []

    engine_thread.run_when_idle(counted(order, 3)).result(PATIENCE)

    assert order == ["idle"] * 3


def test_whoever_asks_waits_for_one_step_at_most(engine_thread: EngineThread) -> None:
    order: list[str] = []
    asked: list[Future[None]] = []

    def step() -> bool:
        order.append("idle")
        asked.append(engine_thread._thread.submit(lambda: order.append("asked")))
        return len(asked) < 2

    engine_thread.run_when_idle(step).result(PATIENCE)
    engine_thread.call(int)

    assert order == ["idle", "asked", "idle", "asked"]


def test_no_idle_work_while_an_iterator_is_open(engine_thread: EngineThread) -> None:
    order: list[str] = []
    reader = iterate(engine_thread, lambda: iter("ab"))
    next(reader)
    work = engine_thread.run_when_idle(counted(order, 1))
    engine_thread.call(int)
    before = list(order)

    assert list(reader) == ["b"]
    work.result(PATIENCE)

    assert (before, order) == ([], ["idle"])


def test_idle_work_that_fails_is_reported_and_given_up(
    engine_thread: EngineThread, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []

    def fail() -> bool:
        raise ValueError("no")

    later, failing = (
        engine_thread.run_when_idle(counted(order, 1)),
        engine_thread.run_when_idle(fail),
    )
    later.result(PATIENCE)

    assert failing.cancelled()
    assert caplog.messages == ["an idle task of `work` failed"]
    assert order == ["idle"]


def test_closing_and_too_much_waiting_give_idle_work_up() -> None:
    engine_thread = EngineThread("brief")
    reader = iterate(engine_thread, lambda: iter("a"))  # so that none begins
    waiting = [
        engine_thread.run_when_idle(lambda: False) for _ in range(MAX_IDLE_TASKS + 1)
    ]
    engine_thread.call(int)

    assert [work.cancelled() for work in waiting] == [True] + [False] * MAX_IDLE_TASKS
    del reader
    engine_thread.close()
    assert all(work.done() for work in waiting)


END_WITHOUT_CLOSING = """
import mlx.core as mx
from mlx_gptoss.engine.thread import EngineThread, ThreadIterator

def sums():
    total = mx.zeros((256, 256))
    while True:
        total = total + total @ total
        yield mx.sum(total).item()

engine_thread = EngineThread("left open")
reader = ThreadIterator(engine_thread, engine_thread.call(sums))
next(reader)
"""


def test_a_process_that_closes_nothing_still_ends_well() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", END_WITHOUT_CLOSING],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
