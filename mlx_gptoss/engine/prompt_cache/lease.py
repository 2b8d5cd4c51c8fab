"""Leases: exclusive use of one KV cache, with the start of a prompt in it."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import mlx.core as mx

from mlx_gptoss.engine.prompt_cache.live_cache import LiveCache
from mlx_gptoss.errors import NonFiniteError


class LeaseOwner(Protocol):
    """The cache that a lease reports to (`PromptCache`)."""

    def record(
        self, live: LiveCache, ids: Sequence[int], *, prefetch: bool
    ) -> None: ...
    def release(self, live: LiveCache) -> None: ...
    def discard(self, live: LiveCache, *, non_finite: bool) -> None: ...


class CacheLease:
    """Exclusive use of a KV cache until `release` or `discard`.

    `cached_tokens` of the prompt are in it already.
    """

    def __init__(
        self,
        owner: LeaseOwner,
        live: LiveCache,
        *,
        prefetch: bool = False,
        keep: bool = True,
    ) -> None:
        self._owner = owner
        self._live = live
        self._prefetch = prefetch
        self._keep = keep
        self.cached_tokens = live.cache.offset

    @property
    def cache(self) -> Any:
        """The KV cache to run the model with."""
        return self._live.cache

    def record(self, ids: Sequence[int]) -> None:
        """Report that `ids`, and nothing later, were appended to the cache."""
        if self._keep:
            self._owner.record(self._live, ids, prefetch=self._prefetch)

    def request_snapshot(self, offset: int) -> None:
        """Have a snapshot taken at an offset that is not passed yet."""
        self._live.request_snapshot(offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the cache; after a failure its content is not trusted."""
        if kind is None or issubclass(kind, GeneratorExit):
            self.release()
        else:
            self.discard(non_finite=issubclass(kind, NonFiniteError))

    def release(self) -> None:
        """Return the cache; its content stays available to later prompts."""
        if self._keep:
            self._owner.release(self._live)
        else:
            self.discard()

    def discard(self, *, non_finite: bool = False) -> None:
        """Return the cache and drop what was computed in it.

        With `non_finite`, the prefix it started from is checked and dropped too where
        it holds NaN or infinite numbers.
        """
        self._owner.discard(self._live, non_finite=non_finite)


class PinnedLease:
    """A KV cache of the caller, who gets it back with what was appended to it."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.cached_tokens: int = cache.offset

    def record(self, ids: Sequence[int]) -> None:
        """Do nothing: the prompt cache keeps none of it."""

    def request_snapshot(self, offset: int) -> None:
        """Do nothing: no other request shares the cache."""

    def release(self) -> None:
        """Leave the cache as it is, complete."""
        mx.eval(self.cache.arrays)

    def discard(self, *, non_finite: bool = False) -> None:
        """Leave the cache as it is."""
