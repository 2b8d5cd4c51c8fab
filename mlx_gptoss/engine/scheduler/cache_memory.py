"""Memory of the running sequences: whether they can grow, beside the prompt cache."""

from collections.abc import Iterable

from mlx_gptoss.engine.prompt_cache import LazyPromptCache
from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.sequence import Sequence


class CacheMemory:
    """Compares the next lengths of sequences with the KV budget. Engine thread only."""

    def __init__(self, kv_budget: KVBudget, prompts: LazyPromptCache) -> None:
        self._kv_budget = kv_budget
        self._prompts = prompts
        self._reserved_bytes = 0  # at the last `shrink_prompt_cache`

    def fits(self, holding: list[Sequence]) -> bool:
        """Whether sequences can have one more token each."""
        lengths, scoring = slot_lengths(holding, 1), any_scored(holding)
        return self._kv_budget.fits(lengths, scoring=scoring)

    def shrink_prompt_cache(self, holding: list[Sequence]) -> None:
        """Make the prompt cache leave room for these sequences to grow."""
        lengths, scoring = slot_lengths(holding, 1), any_scored(holding)
        total = self._kv_budget.total_bytes(lengths, scoring=scoring)
        if self._kv_budget.capacity is None or total == self._reserved_bytes:
            return
        self._reserved_bytes = total
        in_use = self._kv_budget.cache_bytes(
            [one.cache.offset - one.cache.shared for one in holding if one.lease]
        )
        room = self._kv_budget.capacity - max(0, total - in_use)
        self._prompts.shrink(room)


def slot_lengths(sequences: Iterable[Sequence], more: int) -> list[int]:
    """Return the tokens in the slots of sequences that grow by `more` tokens each.

    The base that sequences share is one more slot, and no longer part of their own.
    """
    lengths, bases = [], {}
    for sequence in sequences:
        lease = sequence.lease
        base = None if lease is None else lease.cache.base
        shared = 0 if lease is None or base is None else lease.cache.shared
        if base is not None:
            bases[base] = base.capacity
        lengths.append(sequence.length + more - shared)
    return [*lengths, *bases.values()]


def any_scored(sequences: Iterable[Sequence]) -> bool:
    """Whether the log-probabilities of a prompt are computed among sequences."""
    return any(sequence.scorer is not None for sequence in sequences)
