"""Generation with the prompt cache, and prefill ahead in idle time.

For the engine thread; knows nothing of conversations.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.generate import Generation
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_cache.cache import PromptCache

IDLE_CHUNK = 128  # tokens; a new request waits for at most one chunk


class CachedGeneration(Iterator[Step]):
    """The Steps after a prompt whose known prefix is not prefilled again.

    `start(ids, cache, on_computed)` starts a Generation. The KV cache is leased with
    the first Step and returned after the last.
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
        """Stop generating; the prompt cache keeps what was computed."""
        self._steps.close()

    @property
    def stats(self) -> Statistics:
        return self._generation.stats if self._generation else Statistics(0, 0)

    @property
    def computed_ids(self) -> tuple[int, ...]:
        return self._generation.computed_ids if self._generation else ()


class BackgroundPrefill:
    """Prefills a prompt in small steps, then saves it to disk."""

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
        """Prefill or save a little; return whether more is left."""
        with self._cache.acquire(self._ids, prefetch=True) as lease:
            part = self._ids[lease.cached_tokens : lease.cached_tokens + self._chunk]
            if part:
                batch = mx.array([part], mx.int32)  # (1, L)
                self._model.hidden(batch, lease.cache, last=True)
                mx.eval(lease.cache.arrays)
                lease.record(part)
                return True
        return self._cache.save(self._ids)
