"""The Steps of one answer, read in any thread while the engine thread computes."""

from collections.abc import Callable
from typing import Any

from mlx_gptoss.engine.generate import Generation
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_cache import CachedGeneration
from mlx_gptoss.engine.thread import EngineThread, ThreadIterator


class Stream(ThreadIterator[Step]):
    """An iterator of Steps; `close` (or leaving a `with` block) ends it early.

    Usable in any thread, by one reader at a time.
    """

    def __init__(
        self,
        thread: EngineThread,
        generation: Generation | CachedGeneration,
        cancel: Callable[[], Any],
    ) -> None:
        super().__init__(thread, generation, cancel)
        self._generation: Generation | CachedGeneration | None = generation

    def on_end(self) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:  # keep the figures, release model and cache
            self._stats, self._computed_ids = generation.stats, generation.computed_ids

    @property
    def stats(self) -> Statistics:
        """The statistics so far, or of the whole answer once it ended."""
        return self._generation.stats if self._generation else self._stats

    @property
    def computed_ids(self) -> tuple[int, ...]:
        """The token ids appended to the cache since the start."""
        return self._generation.computed_ids if self._generation else self._computed_ids
