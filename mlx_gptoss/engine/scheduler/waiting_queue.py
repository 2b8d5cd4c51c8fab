"""The requests that wait, in the order they came; may be used from any thread."""

import threading
from collections import deque
from collections.abc import Callable

from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.errors import BusyError


class WaitingQueue:
    """Requests first in, first out; a paused one goes to the front."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[Request] = deque()
        self._closed: Exception | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def put(
        self, request: Request, refusal: Callable[[list[Request]], BusyError | None]
    ) -> None:
        """Let a request wait. Raises what `refusal` says, or `close` said."""
        with self._lock:
            error = self._closed or refusal(list(self._requests))
            if error is not None:
                raise error
            self._requests.append(request)

    def put_front(self, request: Request) -> None:
        """Let a request wait that was running before; there is always room for it."""
        with self._lock:
            self._requests.appendleft(request)

    def peek(self) -> Request | None:
        """Return whose turn it is, and leave it there."""
        with self._lock:
            return self._requests[0] if self._requests else None

    def remove(self, request: Request) -> None:
        with self._lock:
            if request in self._requests:
                self._requests.remove(request)

    def position(self, request: Request) -> int:
        """Return the place of a request: 1 is next, 0 does not wait."""
        with self._lock:
            return 1 + self._requests.index(request) if request in self._requests else 0

    def requests(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def close(self, error: Exception) -> None:
        """Take no more: whoever asks gets this error."""
        with self._lock:
            self._closed = self._closed or error
