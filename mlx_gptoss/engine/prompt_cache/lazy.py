"""The prompt cache of a runtime: opened on first use, saved when the runtime closes."""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.prompt_cache.background import BackgroundPrefill
from mlx_gptoss.engine.prompt_cache.cache import PromptCache
from mlx_gptoss.engine.prompt_cache.files import PromptFiles
from mlx_gptoss.engine.prompt_cache.known_prompts import NO_ADAPTER
from mlx_gptoss.engine.prompt_cache.options import CacheOptions
from mlx_gptoss.engine.prompt_cache.statistics import CacheSize
from mlx_gptoss.errors import StorageError
from mlx_gptoss.memory import Plan

log = logging.getLogger(__name__)


class LazyPromptCache:
    """Opens a PromptCache on first use, in the engine thread.

    `message_ends` returns the token ids that end a message. `open_files` opens the part
    on disk, if `options` ask for one. At most `max_prepared` prompts are remembered to
    be saved at the end.
    """

    def __init__(
        self,
        model: Callable[[], LanguageModel],
        options: CacheOptions,
        plan: Plan | None,
        *,
        message_ends: Callable[[], list[int]],
        open_files: Callable[[CacheOptions], PromptFiles] | None,
        max_prepared: int,
    ) -> None:
        self._model = model
        self._options = options
        self._plan = plan
        self._message_ends = message_ends
        self._open_files = open_files
        self._cache: PromptCache | None = None
        self._prepared: deque[tuple[Sequence[int], str]] = deque(maxlen=max_prepared)

    def open(self) -> PromptCache:
        """Return the prompt cache. Only in the engine thread."""
        if self._cache is None:
            self._cache = PromptCache(
                self._model().make_pool(),
                message_ends=self._message_ends(),
                limit=self._options.limit(self._plan),
                files=self._files(),
                requests=self._options.requests,
            )
        return self._cache

    def shrink(self, max_bytes: int) -> None:
        """Reduce memory to `max_bytes` if the cache is open, as far as it can."""
        if self._cache is not None:
            self._cache.shrink(max_bytes)

    @property
    def size(self) -> CacheSize:
        """Bytes in memory and their limit, readable in any thread."""
        nbytes = self._cache.resident_bytes if self._cache is not None else 0
        return CacheSize(nbytes, self._options.limit(self._plan))

    def replan(self, plan: Plan) -> None:
        """Take the limit of another plan. Only in the engine thread."""
        self._plan = plan
        if self._cache is not None:
            self._cache.limit = self._options.limit(plan)
            self._cache.shrink(self._cache.limit)

    def remember(self, ids: Sequence[int], adapter: str = NO_ADAPTER) -> None:
        """Save what is known of `ids` at the latest in `close`.

        `adapter` is the digest of the adapter that reads them.
        """
        self._prepared.append((ids, adapter))

    def prefill_ahead(
        self, ids: Sequence[int], adapter: str = NO_ADAPTER, slot: int = 0
    ) -> BackgroundPrefill:
        """Return work that prefills `ids` in steps. Only in the engine thread.

        `adapter` is the digest of the adapter that reads them, `slot` its place.
        """
        cache = self.open()
        return BackgroundPrefill(self._model(), cache, ids, adapter=adapter, slot=slot)

    def close(self) -> None:
        """Save the prompts that idle time did not suffice for; release the cache."""
        for ids, adapter in self._prepared:
            while self._cache is not None and self._cache.save(ids, adapter=adapter):
                pass
        self._cache = None

    def _files(self) -> PromptFiles | None:
        """Open the part on disk; without it the cache works in memory only."""
        if self._open_files is None or not self._options.disk_bytes:
            return None
        try:
            return self._open_files(self._options)
        except StorageError as error:
            log.warning("prompts are not saved to disk: %s", error)
            return None
