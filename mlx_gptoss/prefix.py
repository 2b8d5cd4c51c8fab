"""The last prompt, kept in a KV cache, so that the next one is read from its end.

A conversation's next prompt nearly always begins with the last one. The caches are
put back to that point exactly, so what comes out is what a fresh cache would give.
Knows token ids; keeps one point only.
"""

from collections.abc import Callable
from typing import Any

from mlx_gptoss.runtime import Runtime, Stream
from mlx_gptoss.sampling import SamplingParams


class Prefix:
    """One cache of a runtime and the prompt at whose end it can stand."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.forget()

    def forget(self) -> None:
        """Let go of the cache."""
        self._cache: Any = None
        self._snapshot: Any = None
        self._ids: list[int] = []

    def generate(
        self,
        ids: list[int],
        params: SamplingParams,
        *,
        cancelled: Callable[[], bool] | None = None,
    ) -> Stream:
        """Generate after `ids`, reading only what follows the kept prompt.

        The last Stream must be closed: its cache goes on here.
        """
        kept, snapshot, cache = self._ids, self._snapshot, self._cache
        self.forget()  # until this prompt has been read, there is nothing to keep
        if snapshot is None or len(ids) <= len(kept) or ids[: len(kept)] != kept:
            kept, cache = [], self._runtime.new_cache()
        else:
            self._runtime.run(cache.restore, snapshot)

        def progress(done: int, total: int) -> None:
            if done == total:
                self._cache, self._snapshot = cache, cache.snapshot()
                self._ids = ids

        return self._runtime.generate(
            ids[len(kept) :],
            params,
            cache=cache,
            progress=progress,
            cancelled=cancelled,
        )
