"""One answer of a chat at a time: a second is refused, not interleaved.

An answer is in progress until its events are read to the end or closed, whichever
thread asks. Any thread may end it, because a generator may be closed by the garbage
collector. Knows nothing of what it protects.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlx_gptoss.errors import PromptError

STILL_ANSWERING = (
    "this chat is still answering: read that answer to its end or `close()` its "
    "iterator first (`aclose()` of an AsyncChat's); another thread needs a Chat of its "
    "own, from `branch()`, as another task does, and may only `cancel()` this one"
)


class AnswerLock:
    """Held while a chat is changed. Acquiring it twice raises PromptError."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # not reentrant: a tool may not ask

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock for the length of a `with`."""
        if not self._lock.acquire(blocking=False):
            raise PromptError(STILL_ANSWERING)
        try:
            yield
        finally:
            self._lock.release()
