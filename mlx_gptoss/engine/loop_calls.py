"""Calls into event loops, gathered while the engine reports what a pass has computed.

    calls = LoopCalls()
    calls.add(loop, resolve)
    calls.deliver()                  # wakes each loop once, for all its calls

Waking a loop writes to a socket and lets its thread compete for Python's lock: once
for each of sixteen tokens, that takes as long as much of the pass. Knows nothing of
requests. For the engine thread.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

Call = Callable[[], object]


class LoopCalls:
    """The calls that no loop has been woken for yet."""

    def __init__(self) -> None:
        self._waiting: dict[AbstractEventLoop, list[Call]] = {}

    def add(
        self, loop: AbstractEventLoop, call: Callable[..., object], *arguments: Any
    ) -> None:
        """Have `call(*arguments)` called in a loop, after those added before."""
        self._waiting.setdefault(loop, []).append(partial(call, *arguments))

    def deliver(self) -> None:
        """Wake the loops; those that are closed have nobody who waits."""
        waiting, self._waiting = self._waiting, {}
        for loop, calls in waiting.items():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_call_each, loop, calls)


def _call_each(loop: AbstractEventLoop, calls: list[Call]) -> None:
    """Let the loop call them, which reports the errors of each."""
    for call in calls:
        loop.call_soon(call)
