"""One thread that does all the work it is given, in order; knows nothing of MLX.

MLX ties streams, lazy arrays and random state to the thread that made them, so a
Runtime loads and runs its model in one owner thread and other threads ask it:

    owner = Owner("model")
    total = owner.call(sum, [1, 2])                  # runs there, returns here
    for item in owner.iterate(make_iterator): ...    # one item a request
    owner.close()

Items are made when they are asked for, so nothing runs ahead of a slow reader,
several readers take turns, and a reader that stops reading stops the work.
Exceptions cross over with their traceback. The owner may call itself.

While nothing is asked and no iterator is open, the owner does idle work, a step at a
time: whoever asks meanwhile waits for one step at most.

The thread of a closed owner is not ended but kept for the next one. A thread that
ran MLX destroys thread-local Python objects when it ends, which aborts the process
if the interpreter is shutting down by then, and joining cannot prevent that.
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
EXHAUSTED = object()  # StopIteration cannot cross over in a future
MAX_IDLE_TASKS = 8  # pieces of idle work that wait; older ones are given up

log = logging.getLogger(__name__)


def _no_op() -> None:
    """Stand in for something that may be left out."""


class PooledThread:
    """A thread that runs what it is given, for as long as the process lives."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self.idle_step: Callable[[], bool] | None = None  # says whether it did any
        thread = threading.Thread(target=self._run, name="mlx-owner", daemon=True)
        thread.start()
        self.ident = thread.ident

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` after what was submitted before."""
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
    """Run `work` and hand over its result; keeps no reference to either."""
    try:
        future.set_result(work())
    except BaseException as error:  # it is raised again where the result is awaited
        future.set_exception(error)


_spare_threads: list[PooledThread] = []  # threads of closed owners
_open_threads: "WeakSet[EngineThread]" = WeakSet()


@atexit.register
def close_all() -> None:
    """End all work before the interpreter goes: no thread may run MLX past that."""
    for owner in list(_open_threads):
        owner.close()


class EngineThread:
    """Runs callables in its own thread, one at a time, in the order they came."""

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
        """Run `work` in the owner thread and return its result.

        Raises GptOssError once the owner is closed. An interrupt while waiting
        (Ctrl-C) is raised here; the work itself runs to its end.
        """
        self.check_open()
        if threading.get_ident() == self._thread.ident:
            return work(*args, **options)
        return self._thread.submit(partial(work, *args, **options)).result()

    def post(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` in the owner thread after what was asked before; do not wait."""
        self.check_open()
        return self._thread.submit(work)

    def iterate(self, make: Callable[[], Iterator[T]]) -> "ThreadIterator[T]":
        """Make an iterator in the owner thread; advance it there, read it here."""
        return ThreadIterator(self, self.call(make))

    def run_when_idle(self, step: Callable[[], bool]) -> "Future[None]":
        """Run `step` in idle time, again and again until it returns False.

        The newest work goes first. The future is done when the work is, and cancelled
        if it is given up: because it failed, too much waits, or the owner closes.
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
        """Do one step if nobody is being served; say whether more may follow."""
        if not self._idle_tasks or self._iterators:
            return False
        work = self._idle_tasks[-1]
        future, step = work
        try:
            more = not future.cancelled() and step()
        except Exception:  # nobody waits for it: the thread must go on
            log.exception("work of `%s` in idle time failed", self.name)
            future.cancel()
            more = False
        if not more:
            self._idle_tasks.remove(work)
            if not future.cancelled():
                future.set_result(None)
        if not self._idle_tasks:
            self._thread.idle_step = None  # it would keep a forgotten owner alive
        return True

    def add_iterator(self, iterator: "ThreadIterator[Any]") -> None:
        """Close `items` too when the owner closes; no idle work until they end."""
        self._iterators.add(iterator)

    def remove_iterator(self, iterator: "ThreadIterator[Any]") -> None:
        """Take note that `items` have ended."""
        self._iterators.discard(iterator)
        if self._idle_tasks and not self._closed:
            self._thread.submit(_no_op)  # wakes it, to look for idle work

    def close(self, cleanup: Callable[[], Any] = _no_op) -> None:
        """End open iterators, run `last`, give the thread back. Twice is once."""
        if self._closed:
            return
        for items in list(self._iterators):
            items.close()
        self.call(self._cancel_idle_tasks)
        self.call(cleanup)
        self._closed = True
        self._return_thread()

    def _cancel_idle_tasks(self) -> None:
        self._thread.idle_step = None
        while self._idle_tasks:
            self._idle_tasks.pop()[0].cancel()

    def check_open(self) -> None:
        """Raise GptOssError once the owner is closed."""
        if self._closed:
            raise GptOssError(f"`{self.name}` is closed: load it again to use it")

    @property
    def closed(self) -> bool:
        return self._closed


class ThreadIterator(Generic[T]):
    """An iterator whose work happens in its owner; `close` stops it early.

    `cancel` is called from the reader's thread when it stops early: it tells an item
    that is being made to give up.
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
        """Stop the work and let go of what it holds."""
        source, self._source = self._source, None
        if source is None:
            return
        self._cancel()
        if not self._thread.closed:
            self._thread.call(getattr(source, "close", _no_op))
        self._thread.remove_iterator(self)
        self.on_end()

    def on_end(self) -> None:
        """Called once when no more items will come; for subclasses."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
