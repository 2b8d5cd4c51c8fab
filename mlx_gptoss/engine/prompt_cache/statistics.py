"""Figures of the prompt cache: counts, and bytes held."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheStatistics:
    """Counts since the model was loaded, and what the prompt cache holds now.

    requests: how many prompts were looked up.
    prompt_tokens, cached_tokens: their tokens, and those found in the cache.
    prepared_tokens: prompt tokens prefilled ahead in idle time.
    evicted_tokens: tokens dropped from memory.
    kept_tokens: tokens in the prefix tree.
    snapshots: snapshots in memory.
    nbytes: bytes in memory; shared parts count once.
    disk_bytes: bytes of the files of all models.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prepared_tokens: int = 0
    evicted_tokens: int = 0
    kept_tokens: int = 0
    snapshots: int = 0
    nbytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class CacheSize:
    """Bytes of cached prompts in memory, those in use included, and their limit."""

    nbytes: int
    limit: int
