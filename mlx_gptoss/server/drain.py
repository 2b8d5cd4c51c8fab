"""The end of a server: what is refused then, and how what still runs is cut.

    drain.begin()                 # a request that comes now is refused
    drain.cut()                   # answers under way end with the error of their API

Knows answers only as something that can fail; nothing of HTTP, signals or time.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from mlx_gptoss.api.errors import ApiError, draining


class Failing(Protocol):
    """An answer under way; to fail one that has ended does nothing."""

    def fail(self, error: Exception) -> None: ...


class Drain:
    """Which answers are under way, and whether they may go on. For one event loop."""

    def __init__(self) -> None:
        self.begun = False
        self.over = False
        self._under_way: set[Failing] = set()

    def begin(self) -> None:
        """Refuse what is asked from now on; what runs goes on."""
        self.begun = True

    def cut(self) -> int:
        """End the answers under way, and say how many there were."""
        self.begun = self.over = True
        for one in self._under_way:
            one.fail(draining())
        return len(self._under_way)

    def refusal(self) -> ApiError | None:
        """Why nothing new may begin, or None if it may."""
        return draining() if self.begun else None

    def watch(self, answers: Sequence[Failing]) -> Callable[[], None]:
        """Cut these too, when it comes to that; call what is returned at their end."""
        self._under_way.update(answers)
        if self.over:
            self.cut()
        return lambda: self._under_way.difference_update(answers)
