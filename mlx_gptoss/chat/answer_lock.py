"""One user of a conversation at a time: a second is refused, not mixed in.

Who asks, a thread or the same one again, makes no difference: an answer that nobody
has read to its end or closed is under way. Any thread may end it, as a generator is
closed wherever the garbage is collected. Knows nothing of what is claimed.
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.events import Done, Event

STILL_ANSWERING = (
    "this chat is still answering: read that answer to its end or `close()` its "
    "iterator first; another thread needs a Chat of its own, as `branch()` gives, and "
    "may only `cancel()`"
)


class AnswerLock:
    """Held while a conversation is changed. Raises PromptError if it is held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # not reentrant: a tool's call counts too

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold it for the length of a `with`."""
        if not self._lock.acquire(blocking=False):
            raise PromptError(STILL_ANSWERING)
        try:
            yield
        finally:
            self._lock.release()

    def hold_during(self, events: Generator[Event]) -> Generator[Event]:
        """Yield the events of a turn and hold it until the Done is there.

        `events` do nothing before the first of them is asked for.
        """
        with ExitStack() as claimed:
            claimed.enter_context(self.hold())
            claimed.enter_context(closing(events))
            for event in events:
                if isinstance(event, Done):  # whoever reads it may ask the next
                    claimed.close()
                yield event
