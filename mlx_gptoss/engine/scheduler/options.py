"""Limits of a batch, and the figures of what it did; knows no request."""

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlx_gptoss.errors import ConfigError

DEFAULT_RUNNING, DEFAULT_WAITING = 16, 64
INITIAL_ESTIMATE_S, MIN_RETRY_S = 5.0, 1.0  # of a request, before one has ended
SMOOTHING = 0.2


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How many answers run at once, and how many requests may wait for that.

    `kv_memory` bounds the bytes of all keys and values in use; None takes what the
    plan of the model leaves for them. Raises ConfigError for what cannot be.
    """

    max_running: int = DEFAULT_RUNNING
    max_waiting: int = DEFAULT_WAITING
    kv_memory: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_running", 1), ("max_waiting", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"`{name}` is {getattr(self, name)}, expected {least} or more"
                )


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """What is going on now, and what was done since the model was loaded.

    `batch_sizes` counts the decoding rounds by how many answers took part; `paused`
    how often one had to wait for memory. What was asked is `requests`, of which
    `finished`, `cancelled` and `failed` have ended; `refused` ones never began.
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
    cached_tokens: int = 0  # of those, not read again
    completion_tokens: int = 0
    batch_sizes: Mapping[int, int] = field(default_factory=dict)


class BatchCounters:
    """Counts as they come, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = BatchStatistics()
        self._sizes: Counter[int] = Counter()
        self._seconds = INITIAL_ESTIMATE_S

    def add(self, **more: int) -> None:
        """Add to some of the figures."""
        with self._lock:
            sums = {name: getattr(self._counts, name) + n for name, n in more.items()}
            self._counts = replace(self._counts, **sums)

    def record_batch_size(self, size: int) -> None:
        """Take note of a decoding round."""
        with self._lock:
            self._sizes[size] += 1

    def record_duration(self, seconds: float) -> None:
        """Take note of how long a request was served."""
        self._seconds += SMOOTHING * (seconds - self._seconds)

    def retry_after(self, running: int) -> float:
        """Guess the seconds until one of so many has ended."""
        return math.ceil(max(MIN_RETRY_S, self._seconds / max(1, running)))

    def snapshot(self, *, running: int, waiting: int) -> BatchStatistics:
        """Return all figures, with those of the moment."""
        with self._lock:
            return replace(
                self._counts,
                running=running,
                waiting=waiting,
                batch_sizes=dict(sorted(self._sizes.items())),
            )
