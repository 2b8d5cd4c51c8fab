"""A thread that runs all work of one model, in order; knows nothing of MLX.

MLX ties streams, lazy arrays and random state to the thread that created them, so a
Runtime loads and runs its model in one engine thread, and other threads call into it:

    thread = EngineThread("model")
    total = thread.call(sum, [1, 2])             # runs there, returns here
    thread.close()

Exceptions are raised in the caller with their traceback. The engine thread may call
itself.

The OS thread of a closed EngineThread is reused by the next one and never ends. A
thread that ran MLX destroys thread-local Python objects when it ends, which aborts the
process if the interpreter is shutting down by then, and joining cannot prevent that.
"""

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet, finalize

from mlx_gptoss.engine.thread_policy import batch_policy
from mlx_gptoss.errors import GptOssError

T = TypeVar("T")


def _no_op() -> None:
    """Do nothing: the default of optional callbacks."""


class PooledThread:
    """An OS thread that runs submitted work until the process ends."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        thread = threading.Thread(target=self._run, name="mlx-engine", daemon=True)
        thread.start()
        self.ident = thread.ident

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` after everything submitted before it."""
        future: Future[T] = Future()
        self._work.put((future, work))
        return future

    def _run(self) -> None:
        with batch_policy():
            while True:
                run_work(*self._work.get())


def run_work(future: "Future[Any]", work: Callable[[], Any]) -> None:
    """Run `work` and set the future; keep no reference to either."""
    try:
        future.set_result(work())
    except BaseException as error:  # raised again in the caller
        future.set_exception(error)


_spare_threads: list[PooledThread] = []  # of closed EngineThreads
_open_threads: "WeakSet[EngineThread]" = WeakSet()


@atexit.register
def close_all() -> None:
    """End all work before the interpreter exits: no thread may run MLX after that."""
    for thread in list(_open_threads):
        thread.close()


class EngineThread:
    """Runs callables in its own thread, one at a time, in order of arrival."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = _spare_threads.pop() if _spare_threads else PooledThread()
        self._return_thread = finalize(self, _spare_threads.append, self._thread)
        self._return_thread.atexit = False
        self._ended = threading.Event()
        _open_threads.add(self)

    def call(self, work: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Run `work(*args, **options)` in the engine thread and return its result.

        Raises what `work` raises, and GptOssError once the thread is closed. An
        interrupt while waiting (Ctrl-C) is raised here; `work` still runs to its end.
        """
        self.check_open()
        if self.is_current:
            return work(*args, **options)
        return self._submit(partial(work, *args, **options)).result()

    def post(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` in the engine thread after earlier work; do not wait."""
        self.check_open()
        return self._submit(work)

    def _submit(self, work: Callable[[], T]) -> "Future[T]":
        # No reference to `self`: a forgotten EngineThread must be collected.
        return self._thread.submit(partial(run_unless, self._ended, self.name, work))

    def close(self, cleanup: Callable[[], Any] = _no_op) -> None:
        """Run `cleanup` after all earlier work. Calling it again does nothing.

        Work that is queued behind it does not run: its future gets a GptOssError.
        """
        if self._ended.is_set():
            return

        def end() -> None:
            cleanup()
            self._ended.set()  # here: the caller may be slow to wake up

        self.call(end)
        self._return_thread()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the engine thread."""
        return threading.get_ident() == self._thread.ident

    def check_open(self) -> None:
        """Raise GptOssError if the thread is closed."""
        check_open(self._ended, self.name)

    @property
    def closed(self) -> bool:
        """Whether `close` has finished."""
        return self._ended.is_set()


def run_unless(ended: threading.Event, name: str, work: Callable[[], T]) -> T:
    """Run `work` unless the thread has closed since it was queued."""
    check_open(ended, name)
    return work()


def check_open(ended: threading.Event, name: str) -> None:
    """Raise GptOssError if the thread called `name` has ended."""
    if ended.is_set():
        raise GptOssError(f"`{name}` is closed: load it again to use it")
