"""Memory of the running sequences: whether they can grow, beside the prompt cache."""

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
        return self._kv_budget.fits(next_lengths(holding))

    def shrink_prompt_cache(self, holding: list[Sequence]) -> None:
        """Make the prompt cache leave room for these sequences to grow."""
        total = self._kv_budget.total_bytes(next_lengths(holding))
        if self._kv_budget.capacity is None or total == self._reserved_bytes:
            return
        self._reserved_bytes = total
        in_use = sum(one.cache.nbytes for one in holding if one.lease is not None)
        room = self._kv_budget.capacity - max(0, total - in_use)
        self._prompts.open().shrink(room)


def next_lengths(sequences: list[Sequence]) -> list[int]:
    """Return the lengths of sequences with one more token each."""
    return [sequence.length + 1 for sequence in sequences]
