"""Snapshot points: the offsets of a prompt at which the cache takes a snapshot."""

import numpy as np

from mlx_gptoss.engine.prompt_cache.live_cache import LiveCache

SNAPSHOT_INTERVAL = 2048  # tokens between snapshots within a long message
MIN_SNAPSHOT_TOKENS = 64  # of an unfinished message


def snapshot_points(
    live: LiveCache, tokens: np.ndarray, message_ends: np.ndarray, *, prefetch: bool
) -> list[int]:
    """Return the offsets to snapshot: message ends, and in between if they are far."""
    at, total = live.cache.offset, len(tokens)
    ends = np.flatnonzero(np.isin(tokens[at:], message_ends)) + at + 1
    points = [n.end for n in live.path if n.restorable][-1:] or [0]
    for end in [*ends.tolist(), total]:
        points += range(points[-1] + SNAPSHOT_INTERVAL, end, SNAPSHOT_INTERVAL)
        if end < total or (len(ends) and ends[-1] == total):
            points.append(end)
    # A prompt that ends within a message is repeated or continued: a repeated one must
    # leave one token to prefill.
    last = total if prefetch else total - 1
    if last - points[-1] >= MIN_SNAPSHOT_TOKENS:
        points.append(last)
    return [point for point in points if point > at]
