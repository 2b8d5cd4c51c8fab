"""One thread works, others ask: order, exceptions, early ends and closing."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from mlx_gptoss.engine.thread import MAX_IDLE_TASKS, EngineThread, ThreadIterator
from mlx_gptoss.errors import GptOssError

PATIENCE = 60  # seconds, for work that takes none


@pytest.fixture
def owner() -> Iterator[EngineThread]:
    owner = EngineThread("work")
    yield owner
    owner.close()


def test_all_work_happens_in_one_other_thread(owner: EngineThread) -> None:
    threads: list[int] = []

    def items() -> Iterator[int]:
        for item in range(3):
            threads.append(threading.get_ident())
            yield item

    taken = list(owner.iterate(items))

    assert taken == [0, 1, 2]
    assert set(threads) == {owner.call(threading.get_ident)} - {threading.get_ident()}


def test_an_item_is_made_only_when_it_is_asked_for(owner: EngineThread) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(9):
            made.append(item)
            yield item

    reader = owner.iterate(items)

    assert (next(reader), next(reader), made) == (0, 1, [0, 1])


def test_readers_take_turns_and_calls_come_between(owner: EngineThread) -> None:
    one, two = owner.iterate(lambda: iter("ab")), owner.iterate(lambda: iter("xy"))

    taken = [next(one), next(two), owner.call(str, 1), next(two), next(one)]

    assert taken == ["a", "x", "1", "y", "b"]


def test_an_exception_crosses_over_and_ends_the_iterator(owner: EngineThread) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    reader = owner.iterate(items)

    assert next(reader) == 1
    with pytest.raises(ValueError, match="two"):
        next(reader)
    assert list(reader) == []


def test_a_reader_that_leaves_early_stops_the_work(owner: EngineThread) -> None:
    ended: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            ended.append(threading.current_thread().name)

    with ThreadIterator(owner, items(), lambda: ended.append("cancelled")) as reader:
        next(reader)

    assert ended == ["cancelled", "mlx-owner"]
    assert list(reader) == []


def test_an_interrupted_reader_cancels_the_item_being_made(owner: EngineThread) -> None:
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


def test_the_owner_may_call_itself(owner: EngineThread) -> None:
    assert owner.call(
        lambda: owner.call(lambda: list(owner.iterate(range(2).__iter__)))
    )


def test_closing_ends_open_iterators_then_runs_the_last_work() -> None:
    owner = EngineThread("brief")
    order: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            order.append("iterator")

    reader = owner.iterate(items)
    next(reader)
    owner.close(lambda: order.append("last"))
    owner.close(lambda: order.append("again"))

    assert order == ["iterator", "last"]
    assert list(reader) == []
    with pytest.raises(GptOssError, match="`brief` is closed: load it again"):
        owner.call(int)


def test_many_threads_are_served_in_full(owner: EngineThread) -> None:
    results: list[list[int]] = []

    def read(start: int) -> None:
        results.append(list(owner.iterate(range(start, start + 50).__iter__)))

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
    owner = EngineThread("forgotten")
    thread = owner.call(threading.get_ident)

    del owner
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


def test_idle_work_is_done_while_nobody_asks(owner: EngineThread) -> None:
    order: list[str] = []

    owner.run_when_idle(counted(order, 3)).result(PATIENCE)

    assert order == ["idle"] * 3


def test_whoever_asks_waits_for_one_step_at_most(owner: EngineThread) -> None:
    order: list[str] = []
    asked: list[Future[None]] = []

    def step() -> bool:
        order.append("idle")
        asked.append(owner._thread.submit(lambda: order.append("asked")))
        return len(asked) < 2

    owner.run_when_idle(step).result(PATIENCE)
    owner.call(int)

    assert order == ["idle", "asked", "idle", "asked"]


def test_no_idle_work_while_an_iterator_is_open(owner: EngineThread) -> None:
    order: list[str] = []
    reader = owner.iterate(lambda: iter("ab"))
    next(reader)
    work = owner.run_when_idle(counted(order, 1))
    owner.call(int)
    before = list(order)

    assert list(reader) == ["b"]
    work.result(PATIENCE)

    assert (before, order) == ([], ["idle"])


def test_idle_work_that_fails_is_reported_and_given_up(
    owner: EngineThread, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []

    def fail() -> bool:
        raise ValueError("no")

    later, failing = owner.run_when_idle(counted(order, 1)), owner.run_when_idle(fail)
    later.result(PATIENCE)

    assert failing.cancelled()
    assert caplog.messages == ["work of `work` in idle time failed"]
    assert order == ["idle"]


def test_closing_and_too_much_waiting_give_idle_work_up() -> None:
    owner = EngineThread("brief")
    reader = owner.iterate(lambda: iter("a"))  # so that none begins
    waiting = [owner.run_when_idle(lambda: False) for _ in range(MAX_IDLE_TASKS + 1)]
    owner.call(int)

    assert [work.cancelled() for work in waiting] == [True] + [False] * MAX_IDLE_TASKS
    del reader
    owner.close()
    assert all(work.done() for work in waiting)


END_WITHOUT_CLOSING = """
import mlx.core as mx
from mlx_gptoss.engine.thread import Owner

def sums():
    total = mx.zeros((256, 256))
    while True:
        total = total + total @ total
        yield mx.sum(total).item()

owner = Owner("left open")
reader = owner.iterate(sums)
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
