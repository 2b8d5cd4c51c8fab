"""End what a cell leaves running: its threads, timers and tracers.

A thread belongs to the cell while code from outside the libraries is on its stack, or
while it waits to run such code (a Timer, an executor's task, an event loop with tasks,
`sched`). It has GRACE_SECONDS to end by itself; then an exception is raised in it.
Python raises that when the thread next runs, so a thread that sleeps or waits for a
queue may remain: it ends when it wakes. A library's thread that waits for work (an idle
worker of an executor, tqdm's monitor) is left alone. Reports the threads that did not
end; the caller decides.
Imports only the standard library, because it is run by its path, inside a sandbox.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from types import FrameType
from typing import Any, ClassVar

PREFIXES = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
LIBRARIES = (
    "<frozen ",
    *(path + os.sep for path in PREFIXES | {*map(os.path.realpath, PREFIXES)}),
)
SCHEDULER = os.sep + "sched.py"
EVENT_LOOP = os.path.join("asyncio", "base_events.py")
EXECUTOR = os.path.join("concurrent", "futures", "thread.py")
GRACE_SECONDS = 0.5  # for threads to end by themselves, and again once interrupted
WAKE_SECONDS = 0.1  # a thread without its exception by then is asleep
START_SECONDS = 0.001  # for a new thread to reach its first line
POLL_SECONDS = 0.01


class CellEnded(SystemExit):
    """Raised in a thread whose cell has ended; records that it was."""

    raised_in: ClassVar[set[int]] = set()  # thread ids

    def __init__(self) -> None:
        super().__init__()
        self.raised_in.add(threading.get_ident())


@dataclass(frozen=True)
class LeftoverThreads:
    """The number of threads that were interrupted, and of those that did not end."""

    interrupted: int = 0
    stubborn: int = 0


class CellThreads:
    """The threads of one kernel, from cell to cell."""

    def __init__(self) -> None:
        self._asleep: dict[int, FrameType] = {}  # interrupted: the first frame of each
        self._show = threading.excepthook
        threading.excepthook = self._excepthook

    def end(self) -> LeftoverThreads:
        """End the cell's threads, within a second."""
        sleep(START_SECONDS)
        if len(sys._current_frames()) == 1:
            self._asleep = {}
            return LeftoverThreads()
        left = self._wait(GRACE_SECONDS, self._asleep)
        new = {
            ident: start
            for ident, start in left.items()
            if self._asleep.get(ident) is not start
        }
        for thread in threading.enumerate():
            if thread.ident in new and isinstance(thread, threading.Timer):
                thread.cancel()
        _cancel_tasks()
        for ident in new:
            CellEnded.raised_in.discard(ident)
            _raise_in(ident)
        interrupted = self._asleep | new
        left = self._wait(WAKE_SECONDS if new else 0, {})
        if any(ident in CellEnded.raised_in for ident in left):  # it may be ending
            left = self._wait(GRACE_SECONDS, interrupted)
        self._asleep = {
            i: start for i, start in left.items() if _same(i, start, interrupted)
        }
        return LeftoverThreads(len(new), len(left) - len(self._asleep))

    def _wait(
        self, seconds: float, asleep: dict[int, FrameType]
    ) -> dict[int, FrameType]:
        """Wait for threads to end, except those `asleep`; return all that are left."""
        end = monotonic() + seconds
        while True:
            left = self._of_cells()
            if monotonic() >= end or all(_same(*one, asleep) for one in left.items()):
                return left
            sleep(POLL_SECONDS)

    def _of_cells(self) -> dict[int, FrameType]:
        """Return the threads of cells, each with its first frame."""
        timers = {
            thread.ident
            for thread in threading.enumerate()
            if isinstance(thread, threading.Timer)
        }
        own = threading.get_ident()
        return {
            ident: _stack(frame)[-1]
            for ident, frame in sys._current_frames().items()
            if ident != own and (ident in timers or _runs_cell(frame))
        }

    def _excepthook(self, caught: Any) -> None:
        if caught.exc_type is not CellEnded:
            self._show(caught)


def disarm() -> None:
    """Remove the tracers, timers and signal handlers that a cell installed."""
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)  # pyright: ignore[reportArgumentType]
    threading.setprofile(None)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    if "faulthandler" in sys.modules:
        sys.modules["faulthandler"].cancel_dump_traceback_later()


def _same(ident: int, start: FrameType, asleep: dict[int, FrameType]) -> bool:
    """Return whether this is still the same thread of `asleep`, which has not woken."""
    return asleep.get(ident) is start and ident not in CellEnded.raised_in


def _raise_in(ident: int) -> None:
    import ctypes  # noqa: PLC0415 - slow to import, rarely needed

    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in(ctypes.c_ulong(ident), ctypes.py_object(CellEnded))


def _stack(frame: FrameType) -> list[FrameType]:
    frames = [frame]
    while (caller := frames[-1].f_back) is not None:
        frames.append(caller)
    return frames


def _runs_cell(frame: FrameType) -> bool:
    return any(map(_is_of_cell, _stack(frame)))


def _is_of_cell(frame: FrameType) -> bool:
    """Return whether a frame is a cell's code, or a library's that will run some."""
    file = frame.f_code.co_filename
    if file.endswith(EXECUTOR):
        return frame.f_code.co_name == "run"  # a task; otherwise the worker is idle
    if file.endswith(EVENT_LOOP):
        return _has_tasks(frame.f_locals.get("self"))
    return file.endswith(SCHEDULER) or not file.startswith(LIBRARIES)


def _cancel_tasks() -> None:
    """Cancel the tasks that executors have not started, as `shutdown` would."""
    for lowest in sys._current_frames().values():
        for frame in _stack(lowest):
            tasks = frame.f_locals.get("work_queue")
            if frame.f_code.co_filename.endswith(EXECUTOR) and tasks is not None:
                _cancel(tasks)


def _cancel(tasks: SimpleQueue[Any]) -> None:
    with suppress(Empty):
        while (task := tasks.get_nowait()) is not None:
            task.future.cancel()
        tasks.put(None)  # ends the workers


def _has_tasks(loop: Any) -> bool:
    """Return whether an event loop has anything to run."""
    asyncio = sys.modules["asyncio"]
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return False
    waiting = getattr(loop, "_scheduled", ()), getattr(loop, "_ready", ())
    return any(waiting) or bool(asyncio.all_tasks(loop))
