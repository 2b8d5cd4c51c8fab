"""A cache in use and the nodes of the tree that lie in it.

Knows nothing of how the tree is searched or how much memory there is.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from mlx_gptoss.engine.prompt_cache.tree import PrefixNode


class KVCache(Protocol):
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


class LiveCache:
    """One sequence that can go on at once: its cache, and its path in the tree."""

    def __init__(self, cache: Any) -> None:
        self.cache: KVCache = cache
        self.path: list[PrefixNode] = []
        self.pending: list[int] = []  # read since the last node ended
        self.busy = False
        self.last_used = 0

    @property
    def end(self) -> int:
        """Where its last node ends."""
        return self.path[-1].end if self.path else 0

    def push(self, node: PrefixNode) -> None:
        """Take note that the cache holds `node` too; no other copy is needed."""
        node.rows = None
        node.live_caches.append(self)
        self.path.append(node)

    def pop(self) -> PrefixNode:
        node = self.path.pop()
        node.live_caches.remove(self)
        return node
