"""A KV cache and the path of the prefix tree that it holds.

Knows nothing of how the tree is searched or how much memory there is.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from mlx_gptoss.engine.prompt_cache.known_prompts import KnownPrompts
from mlx_gptoss.engine.prompt_cache.tree import PrefixNode


class ReusableCache(Protocol):
    """The part of `mlx_gptoss.model.kv_cache.KVCache` that keeping prompts needs."""

    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def arrays(self) -> Sequence[Any]: ...
    def request_snapshots(self, offsets: Iterable[int]) -> None: ...
    def take_snapshots(self) -> Sequence[Any]: ...
    def snapshot(self) -> Any: ...
    def copy_segment(self, start: int, end: int) -> Any: ...
    def rebuild(
        self, length: int, segments: Sequence[Any], snapshot: Any = None
    ) -> None: ...
    def shareable(self, length: int) -> int: ...
    def share(self, source: Any, length: int) -> int: ...
    def free(self) -> None: ...


class CachePool(Protocol):
    """The part of `mlx_gptoss.model.kv_cache.KVPool` that keeping prompts needs."""

    @property
    def nbytes(self) -> int: ...
    def make_cache(self) -> Any: ...
    def compact(self) -> None: ...


class LiveCache:
    """A KV cache whose sequence can continue at once, and its path in the tree."""

    def __init__(self, cache: Any, prompts: KnownPrompts) -> None:
        self.cache: ReusableCache = cache
        self.prompts = prompts  # of the adapter that computed what it holds
        self.path: list[PrefixNode] = []
        self.pending: list[int] = []  # tokens since the end of the last node
        self.guesses: frozenset[int] = frozenset()  # snapshot offsets of this prompt
        self.busy = False
        self.last_used = 0
        self._points: set[int] = set()  # offsets to snapshot

    @property
    def end(self) -> int:
        """The offset at which its last node ends."""
        return self.path[-1].end if self.path else 0

    def request_snapshots(self, offsets: Iterable[int]) -> None:
        """Have snapshots taken at these offsets; replaces earlier requests."""
        self._points = set(offsets)
        self.cache.request_snapshots(self._points)

    def request_snapshot(self, offset: int) -> None:
        """Have a snapshot taken at one more offset, which is not passed yet."""
        if offset not in self._points:
            ahead = {point for point in self._points if point > self.cache.offset}
            self.request_snapshots({*ahead, offset})

    def push(self, node: PrefixNode) -> None:
        """Append a node that the cache holds; drop the copy in memory."""
        node.rows = None
        node.live_caches.append(self)
        self.path.append(node)

    def pop(self) -> PrefixNode:
        """Remove and return the last node."""
        node = self.path.pop()
        node.live_caches.remove(self)
        return node
