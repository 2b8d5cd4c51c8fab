"""Graceful shutdown: reject new requests, then abort the running ones.

    drain.start()                 # new requests are rejected
    drain.abort()                 # running requests end with the error of their API

Knows running requests only as objects that can fail; nothing of HTTP, signals or time.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from mlx_gptoss.api.errors import ApiError, draining


class Failable(Protocol):
    """A running request. Failing one that has ended has no effect."""

    def fail(self, error: Exception) -> None: ...


class Drain:
    """Running requests, and whether they may continue. For one event loop."""

    def __init__(self) -> None:
        self.started = False
        self.aborted = False
        self._running: set[Failable] = set()
        self._idle: set[Callable[[], object]] = set()

    def start(self) -> None:
        """Reject requests from now on; running ones continue."""
        self.started = True
        for leave in tuple(self._idle):
            leave()

    def abort(self) -> int:
        """Abort running requests; return how many there were."""
        self.started = self.aborted = True
        for one in self._running:
            one.fail(draining())
        return len(self._running)

    def refusal(self) -> ApiError | None:
        """Return the error for new requests, None if they may start."""
        return draining() if self.started else None

    def on_start(self, leave: Callable[[], object]) -> Callable[[], object]:
        """Call `leave` when the drain starts; call the returned function to forget it.

        For connections that wait for requests, which are to be closed.
        """
        self._idle.add(leave)
        if self.started:
            leave()
        return lambda: self._idle.discard(leave)

    def track(self, answers: Sequence[Failable]) -> Callable[[], None]:
        """Include `answers` in `abort`; call the returned function when they end."""
        self._running.update(answers)
        if self.aborted:
            self.abort()
        return lambda: self._running.difference_update(answers)
