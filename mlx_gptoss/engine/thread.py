"""A thread that runs all work of one model, in order; knows nothing of MLX.

MLX ties streams, lazy arrays and random state to the thread that created them, so a
Runtime loads and runs its model in one engine thread, and other threads call into it:

    thread = EngineThread("model")
    total = thread.call(sum, [1, 2])             # runs there, returns here
    with ThreadIterator(thread, iterator): ...   # each item is computed there
    thread.close()

Items are computed on demand: nothing runs ahead of a slow reader, several readers take
turns, and a reader that stops reading stops the work. Exceptions are raised in the
caller with their traceback. The engine thread may call itself.

While there is no other work and no open iterator, the thread runs idle tasks step by
step, so other work waits for at most one step.

The OS thread of a closed EngineThread is reused by the next one and never ends. A
thread that ran MLX destroys thread-local Python objects when it ends, which aborts the
process if the interpreter is shutting down by then, and joining cannot prevent that.
"""

import atexit
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Self, TypeVar, cast
from weakref import WeakSet, finalize

from mlx_gptoss.errors import GptOssError

T = TypeVar("T")
EXHAUSTED = object()  # a future cannot carry StopIteration
MAX_IDLE_TASKS = 8  # that wait; older ones are cancelled

log = logging.getLogger(__name__)


def _no_op() -> None:
    """Do nothing: the default of optional callbacks."""


class PooledThread:
    """An OS thread that runs submitted work until the process ends."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self.idle_step: Callable[[], bool] | None = (
            None  # returns whether it did anything
        )
        thread = threading.Thread(target=self._run, name="mlx-engine", daemon=True)
        thread.start()
        self.ident = thread.ident

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` after everything submitted before it."""
        future: Future[T] = Future()
        self._work.put((future, work))
        return future

    def _run(self) -> None:
        while True:
            run_work(*self._next())

    def _next(self) -> tuple["Future[Any]", Callable[[], Any]]:
        while True:
            try:
                return self._work.get_nowait()
            except Empty:
                step = self.idle_step
                if step is None or not step():
                    return self._work.get()


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
        self._iterators: WeakSet[ThreadIterator[Any]] = WeakSet()
        self._idle_tasks: list[tuple[Future[None], Callable[[], bool]]] = []
        self._closed = False
        _open_threads.add(self)

    def call(self, work: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Run `work(*args, **options)` in the engine thread and return its result.

        Raises what `work` raises, and GptOssError once the thread is closed. An
        interrupt while waiting (Ctrl-C) is raised here; `work` still runs to its end.
        """
        self.check_open()
        if threading.get_ident() == self._thread.ident:
            return work(*args, **options)
        return self._thread.submit(partial(work, *args, **options)).result()

    def post(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` in the engine thread after earlier work; do not wait."""
        self.check_open()
        return self._thread.submit(work)

    def run_when_idle(self, step: Callable[[], bool]) -> "Future[None]":
        """Call `step` whenever the thread is idle, until it returns False.

        The newest task runs first. The future completes with the task; it is cancelled
        if the task fails, too many tasks wait, or the thread closes.
        """
        self.check_open()
        future: Future[None] = Future()
        self._thread.submit(partial(self._add_idle_task, future, step))
        return future

    def _add_idle_task(self, future: "Future[None]", step: Callable[[], bool]) -> None:
        self._idle_tasks.append((future, step))
        while len(self._idle_tasks) > MAX_IDLE_TASKS:
            self._idle_tasks.pop(0)[0].cancel()
        self._thread.idle_step = self._run_idle_step

    def _run_idle_step(self) -> bool:
        """Run a step of the newest task, if no iterator is open; False if none ran."""
        if not self._idle_tasks or self._iterators:
            return False
        task = self._idle_tasks[-1]
        future, step = task
        try:
            more = not future.cancelled() and step()
        except Exception:  # no caller waits for it, and the thread must go on
            log.exception("an idle task of `%s` failed", self.name)
            future.cancel()
            more = False
        if not more:
            self._idle_tasks.remove(task)
            if not future.cancelled():
                future.set_result(None)
        if not self._idle_tasks:
            self._thread.idle_step = (
                None  # it would keep a forgotten EngineThread alive
            )
        return True

    def add_iterator(self, iterator: "ThreadIterator[Any]") -> None:
        """Close it too when this thread closes; run no idle tasks until it ends."""
        self._iterators.add(iterator)

    def remove_iterator(self, iterator: "ThreadIterator[Any]") -> None:
        """Note that an iterator has ended."""
        self._iterators.discard(iterator)
        if self._idle_tasks and not self._closed:
            self._thread.submit(_no_op)  # wakes it to look for idle tasks

    def close(self, cleanup: Callable[[], Any] = _no_op) -> None:
        """End open iterators, run `cleanup` last. Calling it again does nothing."""
        if self._closed:
            return
        for iterator in list(self._iterators):
            iterator.close()
        self.call(self._cancel_idle_tasks)
        self.call(cleanup)
        self._closed = True
        self._return_thread()

    def _cancel_idle_tasks(self) -> None:
        self._thread.idle_step = None
        while self._idle_tasks:
            self._idle_tasks.pop()[0].cancel()

    def check_open(self) -> None:
        """Raise GptOssError if the thread is closed."""
        if self._closed:
            raise GptOssError(f"`{self.name}` is closed: load it again to use it")

    @property
    def closed(self) -> bool:
        """Whether `close` has finished."""
        return self._closed


class ThreadIterator(Generic[T]):
    """An iterator advanced in the engine thread; `close` ends it early.

    `cancel` is called in the reader's thread when it stops early; it should make an
    item that is being computed give up.
    """

    def __init__(
        self,
        thread: EngineThread,
        source: Iterator[T],
        cancel: Callable[[], Any] = _no_op,
    ) -> None:
        self._thread = thread
        self._source: Iterator[T] | None = source
        self._cancel = cancel
        thread.add_iterator(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._source is None:
            raise StopIteration
        try:
            item = self._thread.call(next, self._source, EXHAUSTED)
        except BaseException:  # the work failed, or the reader was interrupted
            self.close()
            raise
        if item is EXHAUSTED:
            self._source = None
            self._thread.remove_iterator(self)
            self.on_end()
            raise StopIteration
        return cast(T, item)

    def close(self) -> None:
        """Stop the work and release what the iterator holds."""
        source, self._source = self._source, None
        if source is None:
            return
        self._cancel()
        if not self._thread.closed:
            self._thread.call(getattr(source, "close", _no_op))
        self._thread.remove_iterator(self)
        self.on_end()

    def on_end(self) -> None:
        """Called once after the last item; for subclasses."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
