"""The prompt cache: lease KV caches that start from the longest known prefix.

    cache = PromptCache(model.make_pool(), message_ends={...}, limit=bytes)
    with cache.acquire(ids) as lease:
        ...  # compute ids[lease.cached_tokens:] into lease.cache, with lease.record

A lease starts at the longest known prefix of `ids` that ends on a snapshot, and has its
KV cache to itself; several can be out at once. Keys and values are held once: in a live
cache, else as rows of the tree. Idle caches stay in their slots of the pool while there
is memory. A prompt that continues one takes it over in place; any other gets a new one,
or the least recently used, from which what only that one holds is copied out.

Each adapter has a prefix tree of its own; caches, memory and its limit are common.

For the engine thread only. `eviction` frees memory, `disk` writes to files.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.prompt_cache.eviction import evict, evict_guesses
from mlx_gptoss.engine.prompt_cache.files import PromptFiles, UnusableFile
from mlx_gptoss.engine.prompt_cache.known_prompts import (
    NO_ADAPTER,
    KnownPrompts,
    PromptsByAdapter,
)
from mlx_gptoss.engine.prompt_cache.lease import CacheLease
from mlx_gptoss.engine.prompt_cache.live_cache import CachePool, LiveCache
from mlx_gptoss.engine.prompt_cache.options import DEFAULT_LIMIT
from mlx_gptoss.engine.prompt_cache.snapshot_points import (
    MIN_SNAPSHOT_TOKENS,
    SNAPSHOT_INTERVAL,
    snapshot_points,
)
from mlx_gptoss.engine.prompt_cache.statistics import CacheStatistics
from mlx_gptoss.engine.prompt_cache.tree import (
    PrefixNode,
    PrefixTree,
    count_common_nodes,
    remove_node,
    token_array,
)

GUESSES_FRACTION = 0.25  # of `limit`, for snapshots where no prompt has parted yet
MAX_IDLE_CACHES = 4  # live caches that are kept while no lease uses them
MIN_BASE_TOKENS = 256  # of a beginning that running requests store once

log = logging.getLogger(__name__)


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
    ) -> None:
        self.limit = limit
        self.resident_bytes = 0
        self._pool = pool
        self._message_ends = token_array(message_ends)
        self._live_caches: list[LiveCache] = []
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
        live = self._restore_prefix(tokens if prefetch else tokens[:-1], prompts)
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
        live = self._new_cache()
        live.busy = True
        return CacheLease(self, live, keep=False)

    def save(self, ids: Sequence[int], *, adapter: str = NO_ADAPTER) -> bool:
        """Write the next part of `ids` that is not on disk; False if there is none.

        `adapter` is the digest of the adapter that read them.
        """
        disk = self._prompts.open(adapter).disk
        return disk is not None and disk.save(token_array(ids), self._rows)

    def clear(self) -> None:
        """Drop everything that is not in use; files stay."""
        for live in self._idle:
            self._drop(live)
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
        return self._pool.nbytes + self._prompts.nbytes

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

    def _restore_prefix(self, tokens: np.ndarray, prompts: KnownPrompts) -> LiveCache:
        """Return an idle cache that holds the longest known prefix of `tokens`."""
        while True:
            live, target = self._choose_cache(prompts.tree.match(tokens))
            live.prompts = prompts
            shared = count_common_nodes(live.path, target)
            if (
                shared == len(live.path) == len(target)
                and live.cache.offset == live.end
            ):
                return live
            try:
                self._load(target, shared, prompts)
                self._move_cache(live, target, shared)
            except UnusableFile as error:
                log.warning("%s", error)
                remove_node(error.node)
            except BaseException:  # the content of the cache is unknown now
                self._drop(live, trusted=False)
                raise
            else:
                return live

    def _load(
        self, target: list[PrefixNode], shared: int, prompts: KnownPrompts
    ) -> None:
        """Load nodes that are only on disk. Raises UnusableFile."""
        for node in target[shared:]:
            if not node.live_caches and node.rows is None:
                node.rows, snapshot = node.file.load(node)
                node.snapshot = node.snapshot or snapshot
        if target and target[-1].snapshot is None:
            target[-1].snapshot = target[-1].file.load(target[-1])[1]
        if prompts.disk is not None:
            prompts.disk.files.touch(target)

    def _choose_cache(
        self, known: list[PrefixNode]
    ) -> tuple[LiveCache, list[PrefixNode]]:
        """Return the cache to use, and the part of the known path to restore."""
        points = [n for n, node in enumerate(known, start=1) if node.restorable]
        target = known[: points[-1]] if points else []
        idle = self._idle
        for live in idle:  # at its own end a cache needs no snapshot
            depth = len(live.path)
            if depth > len(target) and live.path == known[:depth]:
                return live, known[:depth]

        def shared(live: LiveCache) -> int:
            count = count_common_nodes(live.path, target)
            return target[count - 1].end if count else 0

        # Taking over copies out what is not shared, a new cache copies what is.
        cheap = [live for live in idle if live.end <= 2 * shared(live)]
        if cheap:
            return max(cheap, key=shared), target
        if len(idle) >= MAX_IDLE_CACHES:
            return idle[0], target
        return self._new_cache(), target

    def _new_cache(self) -> LiveCache:
        live = LiveCache(self._pool.make_cache(), self._prompts.open(NO_ADAPTER))
        self._live_caches.append(live)
        return live

    @property
    def _idle(self) -> list[LiveCache]:
        """The live caches that no lease uses, the least recently used first."""
        idle = [live for live in self._live_caches if not live.busy]
        return sorted(idle, key=lambda live: live.last_used)

    def _rows(self, node: PrefixNode, start: int = 0) -> Any:
        """Return the full layers' keys and values of a node, if they are in memory.

        Those of its tokens from `start` on, which may lie inside it.
        """
        first = max(node.start, start)
        if node.live_caches:
            return node.live_caches[0].cache.copy_segment(first, node.end)
        if first == node.start:
            return node.rows
        return node.rows.slice(first - node.start, len(node.tokens))

    def _share_running(self, live: LiveCache, target: list[PrefixNode]) -> int:
        """Share the beginning of `target` with a cache in use, if it is long enough.

        Rows that decode together read it once. Returns the number of tokens, or 0.
        """
        held = {other: node.end for node in target for other in node.live_caches}
        found = [
            (other.cache.shareable(end), other)
            for other, end in held.items()
            if other.busy and other is not live
        ]
        length, source = max(found, key=lambda one: one[0], default=(0, live))
        if length < MIN_BASE_TOKENS:
            return 0
        return live.cache.share(source.cache, length)

    def _move_cache(
        self, live: LiveCache, target: list[PrefixNode], shared: int
    ) -> None:
        """Make a cache hold `target`; the first `shared` nodes are in it already."""
        self._spill(live, shared)
        if not live.path:
            live.cache.free()
        if target:
            start = live.end or self._share_running(live, target)
            rows = [self._rows(node, start) for node in target if node.end > start]
            live.cache.rebuild(start, rows, target[-1].snapshot)
            target[-1].guessed = False
        for node in target[shared:]:
            live.push(node)

    def _spill(self, live: LiveCache, shared: int) -> None:
        """Copy out the nodes past the first `shared` that only this cache holds."""
        if len(live.path) > shared:
            last = live.path[-1]
            if not last.restorable and len(last.tokens) >= MIN_SNAPSHOT_TOKENS:
                last.snapshot = live.cache.snapshot()
        while len(live.path) > shared:  # the last node first
            node = live.pop()
            if node.live_caches:
                continue
            if node.restorable or node.children:
                node.rows = live.cache.copy_segment(node.start, node.end)
                mx.eval(node.rows.arrays)
            else:
                remove_node(node)

    def _drop(self, live: LiveCache, *, trusted: bool = True) -> None:
        """Drop a cache; nodes only it holds are copied out if they can be trusted."""
        self._live_caches.remove(live)
        if trusted:
            self._spill(live, 0)
        live.cache.free()
        while live.path:
            node = live.pop()
            if node.is_empty:
                remove_node(node)

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
        for old in self._idle[:-MAX_IDLE_CACHES]:
            self._drop(old)
        self._evict()
        self._update_size()

    def discard(self, live: LiveCache, *, non_finite: bool) -> None:
        """Take back a leased cache and drop what was computed in it."""
        if non_finite:
            self._drop_non_finite(live)
        self._drop(live, trusted=False)
        self._update_size()

    def _drop_non_finite(self, live: LiveCache) -> None:
        """Drop the nodes of a cache from the first that is not finite.

        Otherwise later prompts would start from it, and always fail.
        """
        broken = first_non_finite(live.path, self._rows)
        if broken is None:
            return
        gone = list(broken.subtree())
        remove_node(broken)
        for other in [x for x in self._live_caches if not x.busy and broken in x.path]:
            self._drop(other, trusted=False)
        if live.prompts.disk is not None:
            names = {n.file.name for n in gone if n.file is not None}
            live.prompts.disk.discard(names)
        for node in gone:
            node.rows = node.snapshot = node.file = None

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
        most_guesses = int(self.limit * GUESSES_FRACTION)
        if self._prompts.nbytes > most_guesses:
            evict_guesses(self._prompts, most_guesses)
        most = self.limit if max_bytes is None else max_bytes
        if (excess := self.nbytes - most) > 0:
            evicted = evict(self._prompts, self._live_caches, excess)
            self._count(evicted_tokens=evicted)
        # Without a need for memory the last conversation can always be continued.
        for live in self._idle[:-1] if max_bytes is None else self._idle:
            if self.nbytes > most:
                self._drop(live, trusted=False)
        if self.nbytes > most:
            self._pool.compact()


def first_non_finite(
    path: Sequence[PrefixNode], rows: Callable[[PrefixNode], Any]
) -> PrefixNode | None:
    """Return the first node of a path with a key or value that is not finite.

    Everything computed after it is not finite either.
    """
    for node in path:
        held = [x for x in (rows(node), node.snapshot) if x is not None]
        arrays = [array for x in held for array in x.arrays]
        if not all(mx.isfinite(array).all().item() for array in arrays):
            return node
    return None
