"""The prompt cache: lease KV caches that start from the longest known prefix.

    cache = PromptCache(model.make_pool(), message_ends={...}, limit=bytes)
    with cache.acquire(ids) as lease:
        ...  # compute ids[lease.cached_tokens:] into lease.cache, with lease.record

A lease starts at the longest known prefix of `ids` that ends on a snapshot, and has its
KV cache to itself; several can be out at once (`live_caches`).

Each adapter has a prefix tree of its own; caches, memory and its limit are common.

For the engine thread only. `eviction` frees memory, `disk` writes to files.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.prompt_cache.eviction import evict, evict_guesses, evict_unused
from mlx_gptoss.engine.prompt_cache.files import PromptFiles
from mlx_gptoss.engine.prompt_cache.known_prompts import (
    NO_ADAPTER,
    PromptsByAdapter,
)
from mlx_gptoss.engine.prompt_cache.lease import CacheLease
from mlx_gptoss.engine.prompt_cache.live_cache import CachePool, LiveCache
from mlx_gptoss.engine.prompt_cache.live_caches import MAX_IDLE_CACHES, LiveCaches
from mlx_gptoss.engine.prompt_cache.options import DEFAULT_LIMIT
from mlx_gptoss.engine.prompt_cache.snapshot_points import (
    SNAPSHOT_INTERVAL,
    snapshot_points,
)
from mlx_gptoss.engine.prompt_cache.statistics import CacheStatistics
from mlx_gptoss.engine.prompt_cache.tree import (
    PrefixTree,
    remove_node,
    token_array,
)

GUESSES_FRACTION = 0.25  # of `limit`, for snapshots where no prompt has parted yet


class PromptCache:
    """The prefix trees and the live caches of one model.

    `resident_bytes` is `nbytes` at its last change, readable in any thread.
    """

    def __init__(
        self,
        pool: CachePool,
        *,
        message_ends: Collection[int] = (),
        limit: int = DEFAULT_LIMIT,
        files: PromptFiles | None = None,
        requests: int | None = None,
    ) -> None:
        self.limit = limit
        self._requests = requests
        self.resident_bytes = 0
        self._message_ends = token_array(message_ends)
        self._caches = LiveCaches(pool)
        self._prompts = PromptsByAdapter(files)
        self._counts = CacheStatistics()

    @property
    def tree(self) -> PrefixTree:
        """The prefix tree of the model without an adapter."""
        return self._prompts.open(NO_ADAPTER).tree

    def acquire(
        self,
        ids: Sequence[int],
        *,
        adapter: str = NO_ADAPTER,
        prefetch: bool = False,
        shared: bool = False,
    ) -> CacheLease:
        """Lease a KV cache that holds the longest known prefix of `ids`.

        `adapter` is the digest of the adapter that reads them. At least one token of
        `ids` is left to prefill, unless this is a `prefetch`.
        `shared` says that other requests have the same prompt: a snapshot is taken
        before its last token, however short it is.
        """
        tokens, prompts = token_array(ids), self._prompts.open(adapter)
        known = prompts.tree.match(tokens), prompts.tree.match_length(tokens)
        live = self._caches.restore(tokens if prefetch else tokens[:-1], prompts)
        live.busy = True
        self._touch(live)
        if not prefetch:
            self._count(
                requests=1, prompt_tokens=len(tokens), cached_tokens=live.cache.offset
            )
        points = snapshot_points(
            live, known, tokens, self._message_ends, prefetch=prefetch
        )
        before_last = {len(tokens) - 1} if shared else set()
        live.guesses = points.guesses - before_last
        live.request_snapshots(
            {p for p in before_last if p > live.cache.offset}.union(points.offsets)
        )
        self._evict()
        self._update_size()
        return CacheLease(self, live, prefetch=prefetch)

    def acquire_empty(self) -> CacheLease:
        """Lease an empty KV cache whose content is dropped at the end."""
        live = self._caches.new(self._prompts.open(NO_ADAPTER))
        live.busy = True
        return CacheLease(self, live, keep=False)

    def save(self, ids: Sequence[int], *, adapter: str = NO_ADAPTER) -> bool:
        """Write the next part of `ids` that is not on disk; False if there is none.

        `adapter` is the digest of the adapter that read them.
        """
        disk = self._prompts.open(adapter).disk
        return disk is not None and disk.save(token_array(ids), self._caches.rows)

    def clear(self) -> None:
        """Drop everything that is not in use; files stay."""
        for live in self._caches.idle:
            self._caches.drop(live)
        for node in list(self._prompts):
            if not node.live_caches and node.parent is not None:
                remove_node(node)
        self._update_size()

    def shrink(self, max_bytes: int) -> None:
        """Reduce memory to `max_bytes`, as far as the caches in use allow."""
        self._evict(max_bytes)
        self._update_size()

    @property
    def nbytes(self) -> int:
        """Bytes in memory; shared parts count once."""
        return self._caches.nbytes + self._prompts.nbytes

    @property
    def statistics(self) -> CacheStatistics:
        """Counts, and what the cache holds now."""
        nodes = list(self._prompts)
        return replace(
            self._counts,
            kept_tokens=sum(len(node.tokens) for node in nodes),
            snapshots=sum(node.snapshot is not None for node in nodes),
            nbytes=self.nbytes,
            disk_bytes=self._prompts.disk_bytes,
        )

    def record(self, live: LiveCache, ids: Sequence[int], *, prefetch: bool) -> None:
        """Note that `ids` were appended to a cache; take the snapshots that are due."""
        live.pending += ids
        for snapshot in live.cache.take_snapshots():
            mx.eval(snapshot.arrays)  # a lazy one would keep the whole chunk alive
            self._commit(live, snapshot.offset - live.end, snapshot)
        ended = len(ids) == 1 and ids[0] in self._message_ends
        if live.pending and (ended or len(live.pending) >= SNAPSHOT_INTERVAL):
            self._commit(live, len(live.pending), live.cache.snapshot())
        if prefetch:
            self._count(prepared_tokens=len(ids))

    def _commit(self, live: LiveCache, count: int, snapshot: Any = None) -> None:
        """Move the first `count` pending tokens of a cache into the tree."""
        tokens, live.pending = token_array(live.pending[:count]), live.pending[count:]
        tree = live.prompts.tree
        nodes = tree.extend(live.path[-1] if live.path else tree.root, tokens)
        for node in nodes:
            live.push(node)
        if nodes and not nodes[-1].restorable:
            nodes[-1].snapshot = snapshot
            nodes[-1].guessed = nodes[-1].end in live.guesses
        self._touch(live)
        self._update_size()

    def release(self, live: LiveCache) -> None:
        """Take back a leased cache and keep its content."""
        assert live.cache.offset == live.end + len(live.pending), (
            f"{live.cache.offset=} {live.end=} {len(live.pending)=}"
        )
        self._commit(live, len(live.pending))
        live.request_snapshots(())
        live.busy = False
        # Lazy arrays would keep everything they were computed from alive.
        snapshots = [n.snapshot.arrays for n in live.path if n.snapshot is not None]
        mx.eval([live.cache.arrays, *snapshots])
        for old in self._caches.idle[:-MAX_IDLE_CACHES]:
            self._caches.drop(old)
        self._evict()
        self._update_size()

    def discard(self, live: LiveCache, *, non_finite: bool) -> None:
        """Take back a leased cache and drop what was computed in it."""
        if non_finite:
            self._caches.drop_non_finite(live)
        self._caches.drop(live, trusted=False)
        self._update_size()

    def _touch(self, live: LiveCache) -> None:
        """Mark a cache and its path as used now."""
        live.last_used = self._counts.requests
        for node in live.path:
            node.last_used = live.last_used

    def _count(self, **increments: int) -> None:
        """Add to fields of the statistics by name."""
        sums = {name: getattr(self._counts, name) + n for name, n in increments.items()}
        self._counts = replace(self._counts, **sums)

    def _update_size(self) -> None:
        self.resident_bytes = self.nbytes

    def _evict(self, max_bytes: int | None = None) -> None:
        """Bring memory under the limit, or under `max_bytes`."""
        if self._requests is not None:
            since = self._counts.requests - self._requests
            self._count(evicted_tokens=evict_unused(self._prompts, since))
        most_guesses = int(self.limit * GUESSES_FRACTION)
        if self._prompts.nbytes > most_guesses:
            evict_guesses(self._prompts, most_guesses)
        most = self.limit if max_bytes is None else max_bytes
        if (excess := self.nbytes - most) > 0:
            evicted = evict(self._prompts, self._caches, excess)
            self._count(evicted_tokens=evicted)
        # Without a need for memory the last conversation can always be continued.
        for live in self._caches.idle[:-1] if max_bytes is None else self._caches.idle:
            if self.nbytes > most:
                self._caches.drop(live, trusted=False)
        if self.nbytes > most:
            self._caches.compact()
