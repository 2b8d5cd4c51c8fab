"""Snapshot points: the offsets of a prompt at which the cache takes a snapshot.

A prompt can start only where a snapshot was taken, so the points decide how much is
prefilled again. They are:

- the ends of messages: a conversation goes on there, or is edited;
- the offsets where this prompt parts from one that is known, and where known prompts
  have parted before: a clock in the system text changes at the same place every time;
- guesses within long messages, because the next prompt may part anywhere: at distances
  of 32, 64, 128 … tokens from the end of the message, then every `SNAPSHOT_INTERVAL`.

A guess is worth a snapshot only if it saves at least 1 / `SAVED_DIVISOR` of the tokens
after it, which a prompt that parts there prefills anyway. So guesses are close together
near the end of a prompt and rare far from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlx_gptoss.engine.prompt_cache.live_cache import LiveCache
from mlx_gptoss.engine.prompt_cache.tree import PrefixNode

SNAPSHOT_INTERVAL = 1024  # most tokens between snapshots within a long message
MIN_SNAPSHOT_TOKENS = 64  # of an unfinished message
MIN_SAVED_TOKENS = 32  # that a snapshot within a message saves
SAVED_DIVISOR = 8


@dataclass(frozen=True)
class SnapshotPoints:
    """Offsets in order; `guesses` are those where no prompt has parted yet."""

    offsets: list[int]
    guesses: frozenset[int]


def snapshot_points(
    live: LiveCache,
    known: tuple[list[PrefixNode], int],
    tokens: np.ndarray,
    message_ends: np.ndarray,
    *,
    prefetch: bool,
) -> SnapshotPoints:
    """Return the offsets to snapshot while `tokens` are prefilled into a cache.

    `known` is what the tree knows of `tokens`: the path of whole nodes, and the number
    of tokens.
    """
    path, known_tokens = known
    at, total = live.cache.offset, len(tokens)
    start = max((n.end for n in live.path if n.restorable), default=0)

    def before(point: int) -> int:
        """Return the last snapshot before an offset."""
        return max((p for p in fixed if p <= point), default=start)

    ends = np.flatnonzero(np.isin(tokens[at:], message_ends)) + at + 1
    fixed = {point for point in ends.tolist() if point > at}
    parted = {node.end for node in path if len(node.children) > 1} | {known_tokens}
    for point in sorted(parted):
        if at < point < total and point - before(point) >= MIN_SAVED_TOKENS:
            fixed.add(point)
    # A prompt that ends within a message is repeated or continued: a repeated one must
    # leave one token to prefill.
    last = total if prefetch else total - 1
    if last > at and last - before(last) >= MIN_SNAPSHOT_TOKENS:
        fixed.add(last)
    borders = sorted({start, *fixed, total})
    guesses = {
        point
        for left, right in pairwise(borders)
        for point in guess_points(left, right, total)
        if point > at
    }
    return SnapshotPoints(sorted(guesses | fixed), frozenset(guesses))


def guess_points(start: int, end: int, total: int) -> Iterator[int]:
    """Yield offsets between `start` and `end` where a later prompt is likely to part.

    The prompt has `total` tokens.
    """
    previous = start
    for distance in sorted(distances(end - start), reverse=True):
        point = end - distance
        saved = point - previous
        if saved >= max(MIN_SAVED_TOKENS, (total - point) / SAVED_DIVISOR):
            yield point
            previous = point


def distances(length: int) -> Iterator[int]:
    """Yield 32, 64, 128 … SNAPSHOT_INTERVAL, then its multiples, below `length`."""
    distance = MIN_SAVED_TOKENS
    while distance < length:
        yield distance
        distance += min(distance, SNAPSHOT_INTERVAL)
