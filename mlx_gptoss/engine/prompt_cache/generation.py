"""Generating with a prompt cache, and reading ahead in idle time.

Runs in the owner thread; knows nothing of conversations.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.generate import Generation
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_cache.cache import PromptCache

IDLE_CHUNK = 128  # tokens: whoever asks waits until so many are read


class CachedGeneration(Iterator[Step]):
    """The Steps after a prompt, of which only what is new is read.

    `start(ids, cache, on_fed)` begins a Generation. The cache is taken with the first
    step and given back with the last.
    """

    def __init__(
        self,
        cache: PromptCache,
        ids: Sequence[int],
        start: Callable[[Sequence[int], Any, Callable[..., None]], Generation],
    ) -> None:
        self._cache = cache
        self._ids = ids
        self._start = start
        self._generation: Generation | None = None
        self._steps = self._run()

    def _run(self) -> Generator[Step]:
        with self._cache.acquire(self._ids) as lease:
            self._generation = self._start(
                self._ids[lease.cached_tokens :], lease.cache, lease.record
            )
            try:
                yield from self._generation
            finally:
                self._generation.close()

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Stop here; what was read is kept."""
        self._steps.close()

    @property
    def stats(self) -> Statistics:
        return self._generation.stats if self._generation else Statistics(0, 0)

    @property
    def computed_ids(self) -> tuple[int, ...]:
        return self._generation.computed_ids if self._generation else ()


class BackgroundPrefill:
    """Reads a prompt ahead, a few tokens a step, then writes it to disk."""

    def __init__(
        self,
        model: LanguageModel,
        cache: PromptCache,
        ids: Sequence[int],
        chunk: int = IDLE_CHUNK,
    ) -> None:
        self._model = model
        self._cache = cache
        self._ids = ids
        self._chunk = chunk

    def step(self) -> bool:
        """Do a little; say whether there is more to do."""
        with self._cache.acquire(self._ids, prefetch=True) as lease:
            part = self._ids[lease.cached_tokens : lease.cached_tokens + self._chunk]
            if part:
                batch = mx.array([part], mx.int32)  # (1, L)
                self._model.hidden(batch, lease.cache, last=True)
                mx.eval(lease.cache.arrays)
                lease.record(part)
                return True
        return self._cache.save(self._ids)
