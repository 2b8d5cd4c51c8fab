"""Text that goes in circles, told by its tokens as they come.

    loop = LoopDetector()
    if loop.feed(token): ...        # it repeats itself, to the letter or nearly so

A window is a circle when most of the short runs of tokens in it have been seen
several times before: an exact cycle of any length, or one whose copies differ here
and there (a counter, a changed word). Constant time a token; memory of one entry for
each distinct run.

    loop = CycleDetector()

What programs read may well repeat itself: tables of zeros, drawings, records that
differ in a number. There only an exact cycle counts, one stretch of tokens over and
over and nothing else, and it may go on for twice as long. Neither knows channels.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Protocol

RUN = 4  # tokens that are looked up together
COPIES = 4  # how often a run must have come before it counts as repeated
WINDOW = 2048  # runs that are judged together: long records are no loop
NEARLY = 0.85  # of them that must be repeated: copies may differ here and there
EXACTLY = 0.95  # hardly a token is new: a list of records is not yet a circle
ALLOWED = 4096  # tokens of an exact cycle: a 45 by 45 table of zeros
LONGEST_CYCLE = ALLOWED // COPIES
LOOK_EVERY = 256  # tokens


class Detector(Protocol):
    """Watches one stream of tokens."""

    def feed(self, token: int, /) -> bool:
        """Take a token; say whether the text goes in circles by now."""
        ...


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


class CycleDetector:
    """Watches one stream of tokens for an exact cycle."""

    def __init__(self) -> None:
        self._last: deque[int] = deque(maxlen=ALLOWED)
        self._count = 0

    def feed(self, token: int) -> bool:
        """Take a token; say, now and then, whether the last ALLOWED are a cycle."""
        self._last.append(token)
        self._count += 1
        if self._count < ALLOWED or self._count % LOOK_EVERY:
            return False
        return period(self._last) <= LONGEST_CYCLE


def period(tokens: Sequence[int]) -> int:
    """Return after how many tokens they repeat to their end: of "abcabca" 3.

    By the prefix function of Knuth, Morris and Pratt.
    """
    borders = [0] * len(tokens)
    length = 0
    kept = list(tokens)
    for n in range(1, len(kept)):
        while length and kept[n] != kept[length]:
            length = borders[length - 1]
        length += kept[n] == kept[length]
        borders[n] = length
    return len(kept) - length
