"""Detect text that repeats itself, token by token.

    loop = LoopDetector()
    if loop.feed(token): ...        # it repeats itself, exactly or nearly

A window is a loop when most of its n-grams have occurred several times before: an exact
cycle of any length, or one whose copies differ in places (a counter, a changed word).
Constant time per token; one entry of memory for each distinct n-gram.

    loop = CycleDetector()

Text for programs may well repeat itself: tables of zeros, drawings, records that differ
in a number. There only an exact cycle counts, one sequence of tokens repeated and
nothing else, and only after twice as many tokens. Neither class knows channels.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Protocol

NGRAM = 4  # tokens in an n-gram
COPIES = 4  # occurrences from which an n-gram counts as repeated
WINDOW = 2048  # n-grams that are judged together: long records are no loop
NEARLY = 0.85  # share that must be repeated: copies may differ in places
EXACTLY = 0.95  # share of an answer: a list of similar records is not yet a loop
ALLOWED = 4096  # tokens of an exact cycle: a 45 by 45 table of zeros
LONGEST_CYCLE = ALLOWED // COPIES
CHECK_EVERY = 256  # tokens


class Detector(Protocol):
    """Watches one stream of tokens."""

    def feed(self, token: int, /) -> bool:
        """Take a token; return whether the text is in a loop."""
        ...


class LoopDetector:
    """Detects exact and near repetition in one stream of tokens."""

    def __init__(
        self, *, window: int = WINDOW, share: float = NEARLY, copies: int = COPIES
    ) -> None:
        self._last: deque[int] = deque(maxlen=NGRAM)
        self._seen: Counter[int] = Counter()  # by hash, for half the memory
        self._repeated: deque[bool] = deque(maxlen=window)
        self._count = 0  # of repeated n-grams in the window
        self._needed = share * window
        self._copies = copies

    def feed(self, token: int) -> bool:
        """Take a token; return whether the text is in a loop."""
        self._last.append(token)
        if len(self._last) < NGRAM:
            return False
        ngram = hash(tuple(self._last))
        self._seen[ngram] += 1
        if len(self._repeated) == self._repeated.maxlen:
            self._count -= self._repeated[0]
        repeated = self._seen[ngram] >= self._copies
        self._repeated.append(repeated)
        self._count += repeated
        return self._count >= self._needed


class CycleDetector:
    """Detects an exact cycle in one stream of tokens."""

    def __init__(self) -> None:
        self._last: deque[int] = deque(maxlen=ALLOWED)
        self._count = 0

    def feed(self, token: int) -> bool:
        """Take a token; every CHECK_EVERY, tell if the last ALLOWED are a cycle."""
        self._last.append(token)
        self._count += 1
        if self._count < ALLOWED or self._count % CHECK_EVERY:
            return False
        return period(self._last) <= LONGEST_CYCLE


def period(tokens: Sequence[int]) -> int:
    """Return the period with which tokens repeat up to their end: 3 for "abcabca".

    By the prefix function of Knuth, Morris and Pratt.
    """
    borders = [0] * len(tokens)
    length = 0
    items = list(tokens)  # a deque is slow to index
    for n in range(1, len(items)):
        while length and items[n] != items[length]:
            length = borders[length - 1]
        length += items[n] == items[length]
        borders[n] = length
    return len(items) - length
