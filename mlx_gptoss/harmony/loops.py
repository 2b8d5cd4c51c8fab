"""Text that goes in circles, told by its tokens as they come.

    loop = LoopDetector()
    if loop.feed(token): ...        # it repeats itself, to the letter or nearly so

A window is a circle when most of the short runs of tokens in it have been seen
several times before: an exact cycle of any length, or one whose copies differ here
and there (a counter, a changed word). Constant time a token; memory of one entry for
each distinct run. Knows nothing of channels.
"""

from collections import Counter, deque

RUN = 4  # tokens that are looked up together
COPIES = 4  # how often a run must have come before it counts as repeated
WINDOW = 2048  # runs that are judged together: long records are no loop
NEARLY = 0.85  # of them that must be repeated: copies may differ here and there
EXACTLY = 0.95  # hardly a token is new: a list of records is not yet a circle


class LoopDetector:
    """Watches one stream of tokens."""

    def __init__(
        self, *, window: int = WINDOW, share: float = NEARLY, copies: int = COPIES
    ) -> None:
        self._last: deque[int] = deque(maxlen=RUN)
        self._seen: Counter[int] = Counter()  # by hash: half the memory
        self._repeated: deque[bool] = deque(maxlen=window)
        self._count = 0  # of the repeated ones in the window
        self._needed = share * window
        self._copies = copies

    def feed(self, token: int) -> bool:
        """Take a token; say whether the text goes in circles by now."""
        self._last.append(token)
        if len(self._last) < RUN:
            return False
        run = hash(tuple(self._last))
        self._seen[run] += 1
        if len(self._repeated) == self._repeated.maxlen:
            self._count -= self._repeated[0]
        repeated = self._seen[run] >= self._copies
        self._repeated.append(repeated)
        self._count += repeated
        return self._count >= self._needed
