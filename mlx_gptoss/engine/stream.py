"""One answer on its way, read in any thread while the owner computes it."""

from collections.abc import Callable
from typing import Any

from mlx_gptoss.engine.generate import Generation
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_cache import CachedGeneration
from mlx_gptoss.engine.thread import Items, Owner


class Stream(Items[Step]):
    """The Steps of one answer, read in any thread."""

    def __init__(
        self,
        owner: Owner,
        generation: Generation | CachedGeneration,
        cancel: Callable[[], Any],
    ) -> None:
        super().__init__(owner, generation, cancel)
        self._generation: Generation | CachedGeneration | None = generation

    def ended(self) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:  # keep the figures, let go of model and cache
            self._stats, self._fed = generation.stats, generation.fed

    @property
    def stats(self) -> Statistics:
        """What it took, so far or in all."""
        return self._generation.stats if self._generation else self._stats

    @property
    def fed(self) -> tuple[int, ...]:
        """The ids the cache has read since the start."""
        return self._generation.fed if self._generation else self._fed
