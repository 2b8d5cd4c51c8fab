"""Requests that are not admitted yet, first in, first out. Thread-safe."""

import threading
from collections import deque
from collections.abc import Callable

from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.errors import BusyError


class WaitingQueue:
    """A queue of requests; a preempted one goes to the front."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[Request] = deque()
        self._closed: Exception | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def put(
        self, request: Request, refusal: Callable[[list[Request]], BusyError | None]
    ) -> None:
        """Append a request. Raises the error of `refusal`, or of `close`."""
        with self._lock:
            error = self._closed or refusal(list(self._requests))
            if error is not None:
                raise error
            self._requests.append(request)

    def put_front(self, request: Request) -> None:
        """Put a preempted request at the front; it is never refused."""
        with self._lock:
            self._requests.appendleft(request)

    def peek(self) -> Request | None:
        """Return the next request without removing it; None if the queue is empty."""
        with self._lock:
            return self._requests[0] if self._requests else None

    def remove(self, request: Request) -> None:
        """Remove a request if it is in the queue."""
        with self._lock:
            if request in self._requests:
                self._requests.remove(request)

    def position(self, request: Request) -> int:
        """Return the place of a request: 1 is next, 0 is not in the queue."""
        with self._lock:
            return 1 + self._requests.index(request) if request in self._requests else 0

    def requests(self) -> list[Request]:
        """Return the waiting requests in order."""
        with self._lock:
            return list(self._requests)

    def close(self, error: Exception) -> None:
        """Make every later `put` raise this error."""
        with self._lock:
            self._closed = self._closed or error
