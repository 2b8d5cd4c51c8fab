"""Counts of what the scheduler did, and an estimate of the waiting time."""

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

INITIAL_ESTIMATE_S = 5.0  # seconds per request, until one has ended
MIN_RETRY_S = 1.0
SMOOTHING = 0.2  # of the exponential moving average of seconds per request


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """Requests at this moment, and counts since the model was loaded.

    running, waiting: requests at this moment.
    requests: accepted requests; `finished`, `cancelled` and `failed` ones have ended.
    refused: requests that never started because too many were waiting.
    paused: how often a running request was preempted for lack of memory.
    prompt_tokens, cached_tokens, completion_tokens: sums over all requests;
        `cached_tokens` are prompt tokens that were not prefilled again.
    batch_sizes: number of decode steps by the number of requests in them.
    """

    running: int = 0
    waiting: int = 0
    requests: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    paused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    batch_sizes: Mapping[int, int] = field(default_factory=dict)


class BatchCounters:
    """Thread-safe counters behind BatchStatistics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._seconds = INITIAL_ESTIMATE_S

    def add(self, **increments: int) -> None:
        """Add to fields of BatchStatistics by name."""
        with self._lock:
            self._counts.update(increments)

    def record_batch_size(self, size: int) -> None:
        """Count a decode step of `size` requests."""
        with self._lock:
            self._sizes[size] += 1

    def record_duration(self, seconds: float) -> None:
        """Record how long a request ran."""
        self._seconds += SMOOTHING * (seconds - self._seconds)

    def retry_after(self, running: int) -> float:
        """Estimate the seconds until one of `running` requests ends."""
        return math.ceil(max(MIN_RETRY_S, self._seconds / max(1, running)))

    def snapshot(self, *, running: int, waiting: int) -> BatchStatistics:
        """Return the counts, with the given numbers of this moment."""
        with self._lock:
            return BatchStatistics(
                running=running,
                waiting=waiting,
                batch_sizes=dict(sorted(self._sizes.items())),
                **self._counts,
            )
