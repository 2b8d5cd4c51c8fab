"""The work that a turn waits for: a step of the model, a call, a computation.

A turn is a generator that yields its events, and between them a Work, whose result it
is sent. Whoever drives the turn runs the work, here or without blocking an event loop
(see `drive`):

    step = yield NextStep(stream)

Knows nothing of conversations.
"""

import asyncio
import threading
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from mlx_gptoss.chat.calls import Call
from mlx_gptoss.chat.toolbox import Toolbox
from mlx_gptoss.engine.outputs import Step
from mlx_gptoss.engine.stream import Stream
from mlx_gptoss.errors import AnswerTimeout, PromptError
from mlx_gptoss.harmony.events import Event

T = TypeVar("T")


class TimeLimit:
    """The time a turn may take, from now on; with `seconds=None`, as long as it likes.

    Raises PromptError unless `seconds` is a number above 0.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = check_timeout(seconds)
        self._end = None if seconds is None else monotonic() + seconds

    @property
    def left(self) -> float | None:
        """The seconds left, 0 or more; None without a limit."""
        return None if self._end is None else max(self._end - monotonic(), 0.0)

    def check(self) -> None:
        """Raise AnswerTimeout if no time is left."""
        if self.left == 0:
            raise self.error()

    def error(self) -> AnswerTimeout:
        """Return the error for a turn that took longer."""
        assert self._seconds is not None
        return AnswerTimeout(self._seconds)


def check_timeout(seconds: float | None) -> float | None:
    """Return a limit. Raises PromptError unless it is None or a number above 0."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (number and seconds > 0):
        raise PromptError(f"`timeout` is {seconds!r}: give seconds, more than 0")
    return seconds


class Work(Protocol):
    """Work of a turn. Its result is what the turn is sent."""

    def run(self, limit: TimeLimit) -> Any:
        """Do it in this thread. Raises AnswerTimeout once the limit has passed."""
        ...

    async def run_async(self, limit: TimeLimit) -> Any:
        """Do it without blocking the running event loop."""
        ...

    async def release(self) -> None:
        """Wait until nothing of it is left that ending the turn would wait for."""
        ...


RunningTurn = Generator[Event | Work, Any, T]


class NextStep:
    """The next Step of a stream; None at its end.

    In an event loop it waits until `together` steps have come, or the last, and gives
    those one by one at once: to wake a reader takes longer than to read a step. The
    steps that came before the time was over are given, too.
    """

    def __init__(self, stream: Stream, together: int = 1) -> None:
        self._stream = stream
        self._together = together

    def run(self, limit: TimeLimit) -> Step | None:
        limit.check()
        left = limit.left
        if left is not None and not self._stream.wait(left):
            raise limit.error()
        return next(self._stream, None)

    async def run_async(self, limit: TimeLimit) -> Step | None:
        several = self._together > 1
        if several and (step := self._stream.take()) is not None:
            return step
        limit.check()
        in_time = await self._wait(limit.left)
        if several and (step := self._stream.take()) is not None:
            return step
        if not in_time:
            raise limit.error()
        return next(self._stream, None)

    async def _wait(self, seconds: float | None) -> bool:
        """Return whether steps, or the end, came within `seconds`."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()

        def tell(came: bool = True) -> None:
            if not told.done():
                told.set_result(came)

        if self._stream.ready(tell, loop, self._together):
            return True
        if seconds is None:
            return await told
        timer = loop.call_later(seconds, tell, False)
        try:
            return await told
        finally:
            timer.cancel()

    async def release(self) -> None:
        if not self._stream.closed:
            self._stream.cancel()
            await asyncio.to_thread(self._stream.close)  # lasts for one pass at most


class Computation(Generic[T]):
    """A function that keeps a processor busy for a moment.

    It is run to its end, whatever the limit; from an event loop, in another thread.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._running: asyncio.Future[T] | None = None

    def run(self, limit: TimeLimit) -> T:
        return self._function()

    async def run_async(self, limit: TimeLimit) -> T:
        self._running = asyncio.ensure_future(asyncio.to_thread(self._function))
        return await asyncio.shield(self._running)

    async def release(self) -> None:
        if self._running is not None:
            await asyncio.wait((self._running,))


class CallRun:
    """The result of a call, as text; None if the caller has to answer it."""

    def __init__(
        self, toolbox: Toolbox, call: Call, cancelled: threading.Event
    ) -> None:
        self._toolbox, self._call, self._cancelled = toolbox, call, cancelled

    def run(self, limit: TimeLimit) -> str | None:
        limit.check()
        return self._toolbox.run(self._call, self._ended(limit))

    async def run_async(self, limit: TimeLimit) -> str | None:
        limit.check()
        return await self._toolbox.run_async(self._call, self._ended(limit))

    async def release(self) -> None:
        """Do nothing: a call that was left ends without a listener."""

    def _ended(self, limit: TimeLimit) -> Callable[[], bool]:
        """Return whether the result is no longer awaited, as a function."""
        return lambda: self._cancelled.is_set() or limit.left == 0
