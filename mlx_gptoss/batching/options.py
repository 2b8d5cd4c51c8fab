"""Limits of a batch, and the figures of what it did; data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_RUNNING, DEFAULT_WAITING = 16, 64


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How many requests run at once, and how many may wait for that.

    `kv_memory` bounds the bytes of all keys and values; None takes what the plan of
    the model leaves for them.
    """

    max_running: int = DEFAULT_RUNNING
    max_waiting: int = DEFAULT_WAITING
    kv_memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """What is going on now, and what was done since the model was loaded.

    `batch_sizes` counts the decoding rounds by how many answers took part.
    """

    running: int = 0
    waiting: int = 0
    requests: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0  # with BusyError
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of those, not read again
    completion_tokens: int = 0
    batch_sizes: Mapping[int, int] = field(default_factory=dict)
