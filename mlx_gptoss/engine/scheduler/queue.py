"""The tickets that wait, in the order they came; may be used from any thread."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from mlx_gptoss.engine.scheduler.request import Ticket
from mlx_gptoss.errors import BusyError


class Queue:
    """Tickets first in, first out; a paused one goes to the front."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tickets: deque[Ticket] = deque()
        self._closed: Exception | None = None

    def __len__(self) -> int:
        return len(self._tickets)

    def put(
        self, ticket: Ticket, refusal: Callable[[Sequence[Ticket]], BusyError | None]
    ) -> None:
        """Let a ticket wait. Raises what `refusal` says, or `close` said."""
        with self._lock:
            error = self._closed or refusal(list(self._tickets))
            if error is not None:
                raise error
            self._tickets.append(ticket)

    def put_first(self, ticket: Ticket) -> None:
        """Let a ticket wait that was running before; there is always room for it."""
        with self._lock:
            self._tickets.appendleft(ticket)

    def first(self) -> Ticket | None:
        """Return whose turn it is, and leave it there."""
        with self._lock:
            return self._tickets[0] if self._tickets else None

    def remove(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket in self._tickets:
                self._tickets.remove(ticket)

    def position(self, ticket: Ticket) -> int:
        """Return the place of a ticket: 1 is next, 0 does not wait."""
        with self._lock:
            return 1 + self._tickets.index(ticket) if ticket in self._tickets else 0

    def tickets(self) -> list[Ticket]:
        with self._lock:
            return list(self._tickets)

    def close(self, error: Exception) -> None:
        """Take no more: whoever asks gets this error."""
        with self._lock:
            self._closed = self._closed or error
