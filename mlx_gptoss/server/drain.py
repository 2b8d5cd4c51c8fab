"""The end of a server: what is refused then, and how what still runs is cut.

    drain.begin()                 # a request that comes now is refused
    drain.cut()                   # answers under way end with the error of their API

Knows answers only as something that can fail; nothing of HTTP, signals or time.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from mlx_gptoss.api.errors import ApiError, draining


class Failable(Protocol):
    """An answer under way; to fail one that has ended does nothing."""

    def fail(self, error: Exception) -> None: ...


class Drain:
    """Which answers are under way, and whether they may go on. For one event loop."""

    def __init__(self) -> None:
        self.started = False
        self.aborted = False
        self._running: set[Failable] = set()

    def start(self) -> None:
        """Refuse what is asked from now on; what runs goes on."""
        self.started = True

    def abort(self) -> int:
        """End the answers under way, and say how many there were."""
        self.started = self.aborted = True
        for one in self._running:
            one.fail(draining())
        return len(self._running)

    def refusal(self) -> ApiError | None:
        """Why nothing new may begin, or None if it may."""
        return draining() if self.started else None

    def track(self, answers: Sequence[Failable]) -> Callable[[], None]:
        """Cut these too, when it comes to that; call what is returned at their end."""
        self._running.update(answers)
        if self.aborted:
            self.abort()
        return lambda: self._running.difference_update(answers)
