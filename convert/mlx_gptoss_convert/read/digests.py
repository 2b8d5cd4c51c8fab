"""Compute sha256 digests in a thread, by name.

Knows bytes and names; nothing of tensors or files.
"""

import hashlib
import queue
import threading
from types import TracebackType

import numpy as np

WAITING = 4  # pieces in the queue before `add` blocks


class Digests:
    """Digests by name, updated piece by piece while the caller reads and writes.

    Use it as a context manager. `take` waits until all pieces are hashed.
    """

    def __init__(self) -> None:
        self._pieces: queue.Queue[tuple[str, np.ndarray] | None] = queue.Queue(WAITING)
        self._hashes: dict[str, hashlib._Hash] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Digests":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pieces.put(None)
        self._thread.join()

    def add(self, name: str, piece: np.ndarray) -> None:
        """Update the digest of `name`; the array must not be modified afterwards."""
        self._pieces.put((name, piece))

    def take(self) -> dict[str, str]:
        """Return the digests of everything added since the last call, by name."""
        self._pieces.join()
        digests = {name: found.hexdigest() for name, found in self._hashes.items()}
        self._hashes.clear()
        return digests

    def _work(self) -> None:
        while (item := self._pieces.get()) is not None:
            name, piece = item
            self._hashes.setdefault(name, hashlib.sha256()).update(piece.data)
            self._pieces.task_done()
        self._pieces.task_done()
