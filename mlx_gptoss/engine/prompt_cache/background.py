"""Prefill ahead in idle time. For the engine thread; knows nothing of conversations."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_gptoss.engine.adapter_slots import as_argument
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.prompt_cache.cache import PromptCache
from mlx_gptoss.engine.prompt_cache.known_prompts import NO_ADAPTER

IDLE_CHUNK = 128  # tokens; a new request waits for at most one chunk


class BackgroundPrefill:
    """Prefills a prompt in small steps, then saves it to disk.

    `adapter` is the digest of the adapter that reads it, `slot` its place in the model.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: PromptCache,
        ids: Sequence[int],
        chunk: int = IDLE_CHUNK,
        *,
        adapter: str = NO_ADAPTER,
        slot: int = 0,
    ) -> None:
        self._model = model
        self._cache = cache
        self._ids = ids
        self._chunk = chunk
        self._adapter = adapter
        self._slots = as_argument([slot])

    def step(self) -> bool:
        """Prefill or save a little; return whether more is left."""
        with self._cache.acquire(
            self._ids, adapter=self._adapter, prefetch=True
        ) as lease:
            part = self._ids[lease.cached_tokens : lease.cached_tokens + self._chunk]
            if part:
                batch = mx.array([part], mx.int32)  # (1, L)
                self._model.hidden(batch, lease.cache, last=True, **self._slots)
                mx.eval(lease.cache.arrays)
                lease.record(part)
                return True
        return self._cache.save(self._ids, adapter=self._adapter)
