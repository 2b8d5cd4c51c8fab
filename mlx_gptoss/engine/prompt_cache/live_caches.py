"""The live caches: KV caches of a pool, and what of the known prompts each holds.

    live = caches.restore(tokens, prompts)  # holds the longest known start of `tokens`

Keys and values are held once: in a live cache, else as rows of the tree. Idle caches
stay in their slots while there is memory. A prompt that continues one takes it over in
place; any other gets a new one, or the least recently used, from which what only that
one holds is copied out.

For the engine thread only. Knows nothing of requests, limits or snapshot points.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.prompt_cache.files import UnusableFile
from mlx_gptoss.engine.prompt_cache.known_prompts import KnownPrompts
from mlx_gptoss.engine.prompt_cache.live_cache import CachePool, LiveCache
from mlx_gptoss.engine.prompt_cache.snapshot_points import MIN_SNAPSHOT_TOKENS
from mlx_gptoss.engine.prompt_cache.tree import (
    PrefixNode,
    count_common_nodes,
    remove_node,
)

MAX_IDLE_CACHES = 4  # live caches that are kept while no lease uses them
MIN_BASE_TOKENS = 256  # of a beginning that running requests store once

log = logging.getLogger(__name__)


class LiveCaches:
    """The live caches of one pool, in use and idle."""

    def __init__(self, pool: CachePool) -> None:
        self._pool = pool
        self._caches: list[LiveCache] = []

    def __iter__(self) -> Iterator[LiveCache]:
        return iter(self._caches)

    @property
    def nbytes(self) -> int:
        """Bytes of the pool."""
        return self._pool.nbytes

    def compact(self) -> None:
        """Close the holes of the pool."""
        self._pool.compact()

    def restore(self, tokens: np.ndarray, prompts: KnownPrompts) -> LiveCache:
        """Return an idle cache that holds the longest known prefix of `tokens`."""
        while True:
            live, target = self._choose(prompts.tree.match(tokens), prompts)
            live.prompts = prompts
            shared = count_common_nodes(live.path, target)
            if (
                shared == len(live.path) == len(target)
                and live.cache.offset == live.end
            ):
                return live
            try:
                self._load(target, shared, prompts)
                self._move(live, target, shared)
            except UnusableFile as error:
                log.warning("%s", error)
                remove_node(error.node)
            except BaseException:  # the content of the cache is unknown now
                self.drop(live, trusted=False)
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

    def _choose(
        self, known: list[PrefixNode], prompts: KnownPrompts
    ) -> tuple[LiveCache, list[PrefixNode]]:
        """Return the cache to use, and the part of the known path to restore."""
        points = [n for n, node in enumerate(known, start=1) if node.restorable]
        target = known[: points[-1]] if points else []
        idle = self.idle
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
        return self.new(prompts), target

    def new(self, prompts: KnownPrompts) -> LiveCache:
        """Return an empty cache for prompts of an adapter."""
        live = LiveCache(self._pool.make_cache(), prompts)
        self._caches.append(live)
        return live

    @property
    def idle(self) -> list[LiveCache]:
        """The live caches that no lease uses, the least recently used first."""
        idle = [live for live in self._caches if not live.busy]
        return sorted(idle, key=lambda live: live.last_used)

    def rows(self, node: PrefixNode, start: int = 0) -> Any:
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

    def _move(self, live: LiveCache, target: list[PrefixNode], shared: int) -> None:
        """Make a cache hold `target`; the first `shared` nodes are in it already."""
        self._spill(live, shared)
        if not live.path:
            live.cache.free()
        if target:
            start = live.end or self._share_running(live, target)
            rows = [self.rows(node, start) for node in target if node.end > start]
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

    def drop(self, live: LiveCache, *, trusted: bool = True) -> None:
        """Drop a cache; nodes only it holds are copied out if they can be trusted."""
        self._caches.remove(live)
        if trusted:
            self._spill(live, 0)
        live.cache.free()
        while live.path:
            node = live.pop()
            if node.is_empty:
                remove_node(node)

    def drop_non_finite(self, live: LiveCache) -> None:
        """Drop the nodes of a cache from the first that is not finite.

        Otherwise later prompts would start from it, and always fail.
        """
        broken = first_non_finite(live.path, self.rows)
        if broken is None:
            return
        gone = list(broken.subtree())
        remove_node(broken)
        for other in [x for x in self._caches if not x.busy and broken in x.path]:
            self.drop(other, trusted=False)
        if live.prompts.disk is not None:
            names = {n.file.name for n in gone if n.file is not None}
            live.prompts.disk.discard(names)
        for node in gone:
            node.rows = node.snapshot = node.file = None


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
