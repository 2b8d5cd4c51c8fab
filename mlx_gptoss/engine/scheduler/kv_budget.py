"""KV budget: which sequences fit at once, by the bytes of their keys and values.

Knows sizes only. Counts what will be allocated: the slots of the pool with their
padding, the logits rows of sampling and of prompts whose log-probabilities are asked
for (`scoring`; one prompt's at a time), and the scratch of prompts longer than was
planned for.
"""

from collections.abc import Callable
from functools import partial

from mlx_gptoss.engine.prompt_logprobs import COPIES, POSITIONS
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import Plan, format_bytes
from mlx_gptoss.memory.sizes import scratch_bytes
from mlx_gptoss.model.kv_sizes import pool_bytes

LIVE_LOGITS_ROWS = 6  # float32 rows (V,) alive while a token is sampled


class KVBudget:
    """Counts bytes; without a memory plan, everything fits."""

    def __init__(
        self, config: ModelConfig | None, plan: Plan | None, kv_memory: int | None
    ) -> None:
        self.capacity: int | None = None  # bytes
        self.max_sequence_tokens: int | None = None  # tokens of one sequence alone
        self._cache_bytes: Callable[[list[int]], int] = lambda lengths: 0
        self._extra_scratch_bytes: Callable[[int], int] = lambda longest: 0
        self._logits_bytes = self._scoring_bytes = 0  # of one sequence
        self._most_tokens = config.max_position_embeddings if config else 0
        self._kv_memory = kv_memory
        if config is None or plan is None:
            return
        self._logits_bytes = LIVE_LOGITS_ROWS * config.vocab_size * 4
        self._scoring_bytes = COPIES * POSITIONS * config.vocab_size * 4

        def extra_scratch(longest: int) -> int:
            wanted = scratch_bytes(
                config,
                longest,
                float_bytes=plan.float_bytes,
                metal=plan.budget.metal,
                chunk=plan.prefill_chunk,
            )
            return max(0, wanted - plan.scratch_bytes)

        self._cache_bytes = partial(pool_bytes, config, float_bytes=plan.float_bytes)
        self._extra_scratch_bytes = extra_scratch
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Take the memory that another plan of the same model leaves."""
        planned = plan.budget.bytes - plan.total_bytes + plan.kv_bytes
        self.capacity = planned if self._kv_memory is None else self._kv_memory
        self.max_sequence_tokens = self._longest_fit(self._most_tokens)

    def cache_bytes(self, lengths: list[int]) -> int:
        """Return the bytes that a pool takes for sequences of these lengths."""
        return self._cache_bytes(lengths)

    def total_bytes(self, lengths: list[int], *, scoring: bool = False) -> int:
        """Return the bytes of sequences of these lengths, with their shared scratch."""
        rows = len(lengths) * self._logits_bytes + scoring * self._scoring_bytes
        scratch = self._extra_scratch_bytes(max(lengths, default=0))
        return self.cache_bytes(lengths) + rows + scratch

    def fits(self, lengths: list[int], *, scoring: bool = False) -> bool:
        """Whether sequences of these lengths (tokens) fit at once."""
        if self.capacity is None:
            return True
        return self.total_bytes(lengths, scoring=scoring) <= self.capacity

    def require_fit(self, tokens: int, *, scoring: bool = False) -> None:
        """Raise MemoryBudgetError for a prompt that would not fit even alone."""
        if self.max_sequence_tokens is None or self.capacity is None:
            return
        needed = self.total_bytes([tokens + 1], scoring=scoring)
        if tokens < self.max_sequence_tokens and needed <= self.capacity:
            return
        kept = "keys and values" + (" and log-probabilities" if scoring else "")
        raise MemoryBudgetError(
            f"a prompt of {tokens:,} tokens needs {format_bytes(needed)} for its "
            f"{kept}, and there are {format_bytes(max(0, self.capacity))}, enough for "
            f"{max(0, self.max_sequence_tokens - 1):,} tokens: shorten it, give the "
            "model more memory (`--memory`), or use a smaller model or recipe"
        )

    def _longest_fit(self, most: int) -> int:
        """Return the longest sequence that fits alone, by bisection."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits([middle]):
                low = middle
            else:
                high = middle - 1
        return low
