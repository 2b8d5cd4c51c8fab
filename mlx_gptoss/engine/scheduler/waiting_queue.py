"""Sequences that are not admitted yet, first in, first out. Thread-safe."""

import threading
from collections import deque
from collections.abc import Callable

from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.errors import BusyError


class WaitingQueue:
    """A queue of sequences; a preempted one goes to the front."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collected Stream may look here at any time
        self._sequences: deque[Sequence] = deque()
        self._closed: Exception | None = None
        self._draining: Exception | None = None

    def __len__(self) -> int:
        return len(self._sequences)

    def put(
        self, sequence: Sequence, refusal: Callable[[list[Sequence]], BusyError | None]
    ) -> None:
        """Append a sequence. Raises the error of `close`, `drain` or `refusal`.

        One whose request is patient is refused by `close` only.
        """
        with self._lock:
            error = self._closed
            if error is None and not sequence.request.patient:
                error = self._draining or refusal(list(self._sequences))
            if error is not None:
                raise error
            self._sequences.append(sequence)

    def put_front(self, sequence: Sequence) -> None:
        """Put a preempted sequence at the front; it is never refused."""
        with self._lock:
            self._sequences.appendleft(sequence)

    def peek(self) -> Sequence | None:
        """Return the next sequence without removing it; None if the queue is empty."""
        with self._lock:
            return self._sequences[0] if self._sequences else None

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence if it is in the queue."""
        with self._lock:
            if sequence in self._sequences:
                self._sequences.remove(sequence)

    def position(self, sequence: Sequence) -> int:
        """Return the place of a sequence: 1 is next, 0 is not in the queue."""
        with self._lock:
            if sequence not in self._sequences:
                return 0
            return 1 + self._sequences.index(sequence)

    def all(self) -> list[Sequence]:
        """Return the waiting sequences in order."""
        with self._lock:
            return list(self._sequences)

    def drain(self, error: Exception) -> None:
        """Make every later `put` of an impatient request raise this error."""
        with self._lock:
            self._draining = error

    def close(self, error: Exception) -> None:
        """Make every later `put` raise this error."""
        with self._lock:
            self._closed = self._closed or error
