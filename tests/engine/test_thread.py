"""The engine thread: order of work, exceptions, and closing."""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.engine.thread_policy import batch_policy
from mlx_gptoss.errors import GptOssError


@pytest.fixture
def engine_thread() -> Iterator[EngineThread]:
    engine_thread = EngineThread("work")
    yield engine_thread
    engine_thread.close()


def test_all_work_happens_in_one_other_thread(engine_thread: EngineThread) -> None:
    threads = {engine_thread.call(threading.get_ident) for _ in range(3)}

    assert len(threads - {threading.get_ident()}) == 1
    assert engine_thread.call(lambda: engine_thread.is_current)
    assert not engine_thread.is_current


def test_work_runs_in_the_order_it_came(engine_thread: EngineThread) -> None:
    order: list[str] = []
    for name in "ab":
        engine_thread.post(lambda name=name: order.append(name))

    engine_thread.call(order.append, "c")

    assert order == ["a", "b", "c"]


def test_an_exception_crosses_over_with_its_traceback(
    engine_thread: EngineThread,
) -> None:
    def fail() -> None:
        raise ValueError("two")

    with pytest.raises(ValueError, match="two") as raised:
        engine_thread.call(fail)

    assert raised.traceback[-1].name == "fail"


def test_the_owner_may_call_itself(engine_thread: EngineThread) -> None:
    assert engine_thread.call(lambda: engine_thread.call(str, 1)) == "1"


def test_closing_runs_the_last_work_once() -> None:
    engine_thread = EngineThread("brief")
    order: list[str] = []

    engine_thread.post(lambda: order.append("earlier"))
    engine_thread.close(lambda: order.append("last"))
    engine_thread.close(lambda: order.append("again"))

    assert order == ["earlier", "last"]
    with pytest.raises(GptOssError, match="`brief` is closed: load it again"):
        engine_thread.call(int)


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
    gc.collect()  # those that other tests forgot leave theirs now
    engine_thread = EngineThread("forgotten")
    thread = engine_thread.call(threading.get_ident)

    del engine_thread
    gc.collect()
    heir = EngineThread("heir")

    assert heir.call(threading.get_ident) == thread
    heir.close()


def test_work_queued_behind_the_end_does_not_run() -> None:
    engine_thread, ran, late = EngineThread("ending"), [], []

    def cleanup() -> None:
        late.append(engine_thread.post(lambda: ran.append("late")))

    engine_thread.close(cleanup)

    with pytest.raises(GptOssError, match="is closed"):
        late[0].result(10)
    assert ran == []


END_WITHOUT_CLOSING = """
import threading
import mlx.core as mx
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.engine.thread_policy import batch_policy

def add():
    total = mx.zeros((256, 256))
    mx.eval(total + total @ total)
    started.set()
    if not engine_thread.closed:
        engine_thread.post(add)

started = threading.Event()
engine_thread = EngineThread("left open")
engine_thread.post(add)
assert started.wait(60)
"""


def test_a_process_that_closes_nothing_still_ends_well() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", END_WITHOUT_CLOSING],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no policies")
def test_threads_that_hand_work_to_each_other_do_not_interrupt_each_other(
    engine_thread: EngineThread,
) -> None:
    """Nor those that they start, such as MLX's; the caller's policy is its own."""

    def policies() -> list[int]:
        found = [os.sched_getscheduler(0)]
        started = threading.Thread(
            target=lambda: found.append(os.sched_getscheduler(0))
        )
        started.start()
        started.join()
        return found

    before = os.sched_getscheduler(0)
    assert engine_thread.call(policies) == [os.SCHED_BATCH] * 2
    with batch_policy():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no policies")
def test_a_sandbox_that_forbids_the_policy_is_no_hindrance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    before = os.sched_getscheduler(0)
    with batch_policy():
        assert os.sched_getscheduler(0) == before
