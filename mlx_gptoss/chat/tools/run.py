"""Run a plain or async function within a time limit.

    run_with_timeout(lambda: get_weather("Paris"), seconds=60)
    await run_in_loop(lambda: get_weather("Paris"), seconds=60)

A call with a limit, and every async one, runs in a thread of its own, so that the
caller regains control in time. From an event loop, async functions run in that loop and
all others in threads. A Python thread cannot be stopped: a plain function over its
limit continues without a listener, an async one is cancelled. Knows nothing of tools.
"""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from time import monotonic
from typing import Any

POLL_SECONDS = 0.05  # between checks of `cancelled`


class CallTimeout(Exception):
    """The call did not finish within its limit."""


class CallInterrupted(Exception):
    """The caller no longer needs the result."""


@dataclass
class CallOutcome:
    """The value or the error of a call."""

    value: Any = None
    error: BaseException | None = None


def run_with_timeout(
    call: Callable[[], Any],
    seconds: float | None = None,
    *,
    is_async: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
    interrupt: Callable[[], None] | None = None,
) -> Any:
    """Return the result of `call`, awaited if it is awaitable.

    Raises CallTimeout, CallInterrupted once `cancelled()` is true, and whatever `call`
    raises. `interrupt` is called when the result is no longer awaited. With neither a
    limit nor `interrupt`, a plain function runs in the caller's thread.
    """
    if seconds is None and not is_async and interrupt is None:
        return call()
    outcome, done = CallOutcome(), threading.Event()

    def work() -> None:
        try:
            outcome.value = _awaited(call(), seconds)
        except BaseException as error:  # raised again in the caller's thread
            outcome.error = error
        finally:
            done.set()

    threading.Thread(target=work, daemon=True, name="tool call").start()
    try:
        _wait(done, seconds, cancelled)
    except BaseException:
        if interrupt is not None:
            interrupt()
        raise
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


async def run_in_loop(
    call: Callable[[], Any],
    seconds: float | None = None,
    *,
    is_async: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
    interrupt: Callable[[], None] | None = None,
) -> Any:
    """Return what `run_with_timeout` returns, without blocking the running event loop.

    An async function runs in this loop, any other in a thread of its own. Cancelling
    the caller ends the wait as `cancelled()` does.
    """
    task = asyncio.ensure_future(_run(call, in_thread=not is_async))
    end = None if seconds is None else monotonic() + seconds
    try:
        while not (await asyncio.wait({task}, timeout=POLL_SECONDS))[0]:
            if cancelled():
                raise CallInterrupted
            if end is not None and monotonic() >= end:
                raise CallTimeout
    finally:
        if not task.done():
            task.cancel()
            if interrupt is not None:
                interrupt()
            await asyncio.wait({task}, timeout=POLL_SECONDS)
    if task.cancelled():  # by itself
        raise CallInterrupted
    return task.result()


async def _run(call: Callable[[], Any], *, in_thread: bool) -> Any:
    value = await _run_in_thread(call) if in_thread else call()
    return await value if inspect.isawaitable(value) else value


async def _run_in_thread(call: Callable[[], Any]) -> Any:
    """Run `call` in a thread of its own; the default executor might be full."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[CallOutcome] = loop.create_future()
    context = copy_context()

    def deliver(outcome: CallOutcome) -> None:
        if not ended.done():  # the caller may have left
            ended.set_result(outcome)

    def work() -> None:
        outcome = CallOutcome()
        try:
            outcome.value = context.run(call)
        except BaseException as error:  # raised again in the caller's task
            outcome.error = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=work, daemon=True, name="tool call").start()
    outcome = await ended
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _awaited(value: Any, seconds: float | None) -> Any:
    """Return the result of an awaitable, and everything else as it is."""
    if not inspect.isawaitable(value):
        return value

    async def wait(value: Awaitable[Any]) -> Any:
        own = asyncio.timeout(seconds)
        try:
            async with own:
                return await value
        except TimeoutError:
            if own.expired():
                raise CallTimeout from None
            raise

    return asyncio.run(wait(value))


def _wait(
    done: threading.Event, seconds: float | None, cancelled: Callable[[], bool]
) -> None:
    end = None if seconds is None else monotonic() + seconds
    while not done.wait(POLL_SECONDS):
        if cancelled():
            raise CallInterrupted
        if end is not None and monotonic() >= end:
            raise CallTimeout
