"""What was read before, kept so that it need not be read again.

    cache = PromptCache(model.make_cache, message_ends={...}, limit=bytes)
    with cache.lease(ids) as lease:
        ...    # feed ids[lease.cached:] to lease.cache; tell lease.fed(...) each time

A lease stands at the longest known prefix of `ids` that ends on a snapshot, and has
a cache to itself until it is released; several may be out at once. Keys and values are
held once: in the cache of a live sequence, else as rows of the tree. A request that
shares a beginning with the last one takes over its cache in place, and only what the
two do not share is copied out. All of this runs in the owner thread.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.prompt_cache.files import PromptFiles, UnusableFile
from mlx_gptoss.engine.prompt_cache.live_cache import LiveCache
from mlx_gptoss.engine.prompt_cache.options import DEFAULT_LIMIT
from mlx_gptoss.engine.prompt_cache.tree import (
    PrefixNode,
    PrefixTree,
    count_common_nodes,
    token_array,
)
from mlx_gptoss.errors import NonFiniteError, StorageError

SNAPSHOT_INTERVAL = 2048  # tokens without a message end
MIN_SNAPSHOT_TOKENS = 64  # tokens of an unfinished message
PROTECTED_SNAPSHOTS = 4  # the newest of a live conversation, which are never given up
DISK_RETRY_S = 60.0  # after which a disk that took nothing is tried again
MAX_IDLE_CACHES = 1  # live sequences kept whole while nobody uses them

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheStatistics:
    """What the cache did and holds. `nbytes` counts shared parts once."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of those, not read again
    prepared_tokens: int = 0  # read ahead in idle time
    evicted_tokens: int = 0
    kept_tokens: int = 0
    snapshots: int = 0
    nbytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class CacheSize:
    """Bytes of memory that the prompts kept take, and may take, the ones in use too."""

    nbytes: int
    limit: int


class PromptCache:
    """A prefix tree of what caches of one model have read.

    `held` is `nbytes` when that last changed; any thread may look at it.
    """

    def __init__(
        self,
        make_cache: Callable[[], Any],
        *,
        message_ends: Collection[int] = (),
        limit: int = DEFAULT_LIMIT,
        files: PromptFiles | None = None,
    ) -> None:
        self.limit = limit
        self.resident_bytes = 0
        self.tree = PrefixTree()
        self._make_cache = make_cache
        self._message_ends = token_array(message_ends)
        self._live_caches: list[LiveCache] = []
        self._files = files
        self._next_write_time = 0.0  # seconds of the monotonic clock
        self._write_failed = False
        self._counts = CacheStatistics()
        if files is not None:
            files.load_index(self.tree)

    def acquire(
        self, ids: Sequence[int], *, prefetch: bool = False, shared: bool = False
    ) -> "CacheLease":
        """Put a cache to the longest known prefix of `ids`; release it after use.

        At least one token of `ids` is left to read, unless this is reading `ahead`.
        If they are `shared`, others will ask for the same: all but that token is kept
        for them, however little it is.
        """
        wanted = token_array(ids)
        live = self._restore_prefix(wanted if prefetch else wanted[:-1])
        live.busy = True
        self._touch(live)
        if not prefetch:
            self._count(
                requests=1, prompt_tokens=len(wanted), cached_tokens=live.cache.offset
            )
        marks = self._snapshot_offsets(live, wanted, prefetch=prefetch)
        if shared and len(wanted) - 1 > live.cache.offset:
            marks.append(len(wanted) - 1)
        live.cache.request_snapshots(marks)
        self._evict()
        self._update_size()
        return CacheLease(self, live, prefetch=prefetch)

    def save(self, ids: Sequence[int]) -> bool:
        """Write the next part of `ids` that is not on disk; say if there was any.

        A disk that does not take it is a warning, and is asked again after a while.
        """
        files = self._files
        if files is None or time.monotonic() < self._next_write_time:
            return False
        run: list[
            PrefixNode
        ] = []  # a file ends on a snapshot, so it may hold several nodes
        for node in self.tree.match(token_array(ids)):
            if node.file is not None:
                if run:
                    break
                continue
            run.append(node)
            length = node.end - run[0].start
            if node.snapshot is not None and length >= files.min_tokens:
                return self._write(files, run)
        return False

    def _write(self, files: PromptFiles, nodes: list[PrefixNode]) -> bool:
        try:
            self._detach_files(files.write(nodes, [self._rows(node) for node in nodes]))
        except StorageError as error:
            if not self._write_failed:
                log.warning("prompts are no longer kept in `%s`: %s", files.root, error)
            self._next_write_time = time.monotonic() + DISK_RETRY_S
            self._write_failed = True
            return False
        if self._write_failed:
            log.warning("prompts are kept in `%s` again", files.root)
            self._write_failed = False
        return nodes[-1].file is not None

    def _detach_files(self, names: set[str]) -> None:
        for node in list(self.tree) if names else ():
            if node.file is not None and node.file.name in names:
                node.file = None
                if node.is_empty and node.parent is not None:
                    self.tree.remove(node)

    def clear(self) -> None:
        """Forget all that is not in use; files stay."""
        for live in [x for x in self._live_caches if not x.busy]:
            self._discard(live)
        for node in list(self.tree):
            if not node.live_caches and node.parent is not None:
                self.tree.remove(node)
        self._update_size()

    def discard_non_finite(self, live: LiveCache) -> None:
        """Forget what a sequence stands on, from where its numbers are not finite.

        Later prompts would begin with it, and never be answered.
        """
        broken = first_non_finite(live.path, self._rows)
        if broken is None:
            return
        gone = list(broken.subtree())
        self.tree.remove(broken)
        for other in [x for x in self._live_caches if not x.busy and broken in x.path]:
            self._discard(other, trusted=False)
        names = {node.file.name for node in gone if node.file is not None}
        if self._files is not None and names:
            self._files.discard(names)
            self._detach_files(names)
        for node in gone:
            node.rows = node.snapshot = node.file = None

    def shrink(self, max_bytes: int) -> None:
        """Keep no more than `most` bytes, but for the caches in use."""
        self._evict(max_bytes)
        for live in sorted(self._live_caches, key=lambda live: live.last_used):
            if not live.busy and self.nbytes > max_bytes:
                self._discard(live, trusted=False)
        self._update_size()

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, each once."""
        lives = sum(live.cache.nbytes for live in self._live_caches)
        return lives + sum(node.nbytes for node in self.tree)

    @property
    def statistics(self) -> CacheStatistics:
        nodes = list(self.tree)
        return replace(
            self._counts,
            kept_tokens=sum(len(node.tokens) for node in nodes),
            snapshots=sum(node.snapshot is not None for node in nodes),
            nbytes=self.nbytes,
            disk_bytes=self._files.nbytes if self._files else 0,
        )

    def _restore_prefix(self, tokens: np.ndarray) -> LiveCache:
        """Return an idle sequence that stands at the best known point."""
        while True:
            live, target = self._choose_cache(self.tree.match(tokens))
            kept = count_common_nodes(live.path, target)
            if kept == len(live.path) == len(target) and live.cache.offset == live.end:
                return live
            try:
                self._load(target, kept)
                self._move_cache(live, target, kept)
            except UnusableFile as error:
                log.warning("%s", error)
                self.tree.remove(error.node)
            except BaseException:  # no telling what the cache holds now
                self._discard(live, trusted=False)
                raise
            else:
                return live

    def _load(self, target: list[PrefixNode], shared: int) -> None:
        """Bring what lies on disk only into memory. Raises UnusableFile."""
        for node in target[shared:]:
            if not node.live_caches and node.rows is None:
                node.rows, snapshot = node.file.load(node)
                node.snapshot = node.snapshot or snapshot
        if target and target[-1].snapshot is None:
            target[-1].snapshot = target[-1].file.load(target[-1])[1]
        if self._files is not None:
            self._files.touch(target)

    def _choose_cache(
        self, known: list[PrefixNode]
    ) -> tuple[LiveCache, list[PrefixNode]]:
        """Say where to go in a known path, and which sequence goes there."""
        points = [n for n, node in enumerate(known, start=1) if node.restorable]
        target = known[: points[-1]] if points else []
        idle = [live for live in self._live_caches if not live.busy]
        for live in idle:  # where one stands, no snapshot is needed
            depth = len(live.path)
            if depth > len(target) and live.path == known[:depth]:
                return live, known[:depth]
        if not idle:
            self._live_caches.append(LiveCache(self._make_cache()))
            return self._live_caches[-1], target
        return max(
            idle, key=lambda x: (count_common_nodes(x.path, target), x.last_used)
        ), target

    def _rows(self, node: PrefixNode) -> Any:
        """What the full layers hold of a node, from where it lies in memory."""
        if node.live_caches:
            return node.live_caches[0].cache.copy_segment(node.start, node.end)
        return node.rows

    def _move_cache(
        self, live: LiveCache, target: list[PrefixNode], shared: int
    ) -> None:
        """Put a sequence to the end of `target`, of which it has `kept` nodes."""
        rows = [self._rows(node) for node in target[shared:]]
        self._spill(live, shared)
        if target:
            live.cache.rebuild(live.end, rows, target[-1].snapshot)
        else:
            live.cache = self._make_cache()
        for node in target[shared:]:
            live.push(node)

    def _spill(self, live: LiveCache, shared: int) -> None:
        """Copy out what a sequence holds alone past its first `kept` nodes."""
        if len(live.path) > shared:
            last = live.path[-1]
            if not last.restorable and len(last.tokens) >= MIN_SNAPSHOT_TOKENS:
                last.snapshot = live.cache.snapshot()
        while len(live.path) > shared:  # from the end: what follows is settled
            node = live.pop()
            if node.live_caches:
                continue
            if node.restorable or node.children:
                node.rows = live.cache.copy_segment(node.start, node.end)
                mx.eval(node.rows.arrays)
            else:
                self.tree.remove(node)

    def _discard(self, live: LiveCache, *, trusted: bool = True) -> None:
        """Give up a sequence; what it held alone is kept if it can be trusted."""
        self._live_caches.remove(live)
        if trusted:
            self._spill(live, 0)
        while live.path:
            node = live.pop()
            if node.is_empty:
                self.tree.remove(node)

    def _snapshot_offsets(
        self, live: LiveCache, tokens: np.ndarray, *, prefetch: bool
    ) -> list[int]:
        """Where snapshots are due: message ends, and in between if they are far."""
        at, total = live.cache.offset, len(tokens)
        ends = np.flatnonzero(np.isin(tokens[at:], self._message_ends)) + at + 1
        points = [n.end for n in live.path if n.restorable][-1:] or [0]
        for end in [*ends.tolist(), total]:
            points += range(points[-1] + SNAPSHOT_INTERVAL, end, SNAPSHOT_INTERVAL)
            if end < total or (len(ends) and ends[-1] == total):
                points.append(end)
        # A prompt that ends within a message is asked again or gone on with: one
        # token must be left to read.
        last = total if prefetch else total - 1
        if last - points[-1] >= MIN_SNAPSHOT_TOKENS:
            points.append(last)
        return [point for point in points if point > at]

    def _record(self, live: LiveCache, ids: Sequence[int]) -> None:
        """Take note that the cache of a sequence has read `ids`."""
        live.pending += ids
        for snapshot in live.cache.take_snapshots():
            mx.eval(snapshot.arrays)  # or it would hold on to the whole chunk
            self._commit(live, snapshot.offset - live.end, snapshot)
        ended = len(ids) == 1 and ids[0] in self._message_ends
        if live.pending and (ended or len(live.pending) >= SNAPSHOT_INTERVAL):
            self._commit(live, len(live.pending), live.cache.snapshot())

    def _commit(self, live: LiveCache, count: int, snapshot: Any = None) -> None:
        """Move the first `count` pending tokens of a sequence into the tree."""
        tokens, live.pending = token_array(live.pending[:count]), live.pending[count:]
        nodes = self.tree.extend(live.path[-1] if live.path else self.tree.root, tokens)
        for node in nodes:
            live.push(node)
        if nodes and not nodes[-1].restorable:
            nodes[-1].snapshot = snapshot
        self._touch(live)
        self._update_size()

    def _release(self, live: LiveCache) -> None:
        """Keep a sequence where it stands."""
        assert live.cache.offset == live.end + len(live.pending), (
            f"{live.cache.offset=} {live.end=} {len(live.pending)=}"
        )
        self._commit(live, len(live.pending))
        live.cache.request_snapshots(())
        live.busy = False
        # Unevaluated, they would hold on to all that they were computed from.
        mx.eval([live.cache.arrays, *_arrays(live.path)])
        idle = sorted(
            (x for x in self._live_caches if not x.busy), key=lambda x: x.last_used
        )
        for old in idle[:-MAX_IDLE_CACHES]:
            self._discard(old)
        self._evict()
        self._update_size()

    def _touch(self, live: LiveCache) -> None:
        live.last_used = self._counts.requests
        for node in live.path:
            node.last_used = live.last_used

    def _count(self, **more: int) -> None:
        """Add to the statistics."""
        sums = {name: getattr(self._counts, name) + n for name, n in more.items()}
        self._counts = replace(self._counts, **sums)

    def _update_size(self) -> None:
        self.resident_bytes = self.nbytes

    def _evict(self, max_bytes: int | None = None) -> None:
        """Bring memory under the limit, least recently used first.

        What live sequences hold stays. Of their snapshots old ones go at last.
        """
        excess = self.nbytes - (self.limit if max_bytes is None else max_bytes)
        if excess <= 0:
            return
        stored = [node for node in self.tree if node.nbytes and not node.live_caches]
        # Whoever used a node used all before it: of equals the later go first.
        for node in sorted(stored, key=lambda node: (node.last_used, -node.start)):
            if excess <= 0:
                return
            excess -= node.nbytes
            self._count(evicted_tokens=len(node.tokens))
            node.rows = node.snapshot = None
            if node.is_empty:
                self.tree.remove(node)
        for node in self._spare_snapshots():
            if excess <= 0:
                return
            excess -= node.snapshot.nbytes
            node.snapshot = None

    def _spare_snapshots(self) -> Iterator[PrefixNode]:
        """Nodes of live sequences whose snapshots can be done without."""
        for live in self._live_caches:
            kept = [node for node in live.path if node.snapshot is not None]
            yield from kept[:-PROTECTED_SNAPSHOTS]


class CacheLease:
    """A cache to oneself, standing at a known prefix of a prompt."""

    def __init__(
        self, prompt_cache: PromptCache, live: LiveCache, *, prefetch: bool
    ) -> None:
        self._prompt_cache = prompt_cache
        self._live = live
        self._prefetch = prefetch
        self.cached_tokens = live.cache.offset  # tokens that need not be read

    @property
    def cache(self) -> Any:
        """The cache to feed."""
        return self._live.cache

    def record(self, ids: Sequence[int]) -> None:
        """Tell that the cache has read `ids` and nothing later, evaluated or not."""
        self._prompt_cache._record(self._live, ids)
        if self._prefetch:
            self._prompt_cache._count(prepared_tokens=len(ids))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release it; after a failure nothing in the cache can be trusted."""
        if kind is None or issubclass(kind, GeneratorExit):
            self.release()
        else:
            self.discard(non_finite=issubclass(kind, NonFiniteError))

    def release(self) -> None:
        """Give the cache back; what it holds is kept."""
        self._prompt_cache._release(self._live)

    def discard(self, *, non_finite: bool = False) -> None:
        """Give it up, because nothing in it can be trusted.

        With `broken`, what it began with is not trusted either.
        """
        if non_finite:
            self._prompt_cache.discard_non_finite(self._live)
        self._prompt_cache._discard(self._live, trusted=False)
        self._prompt_cache._update_size()


def first_non_finite(
    path: Sequence[PrefixNode], rows: Callable[[PrefixNode], Any]
) -> PrefixNode | None:
    """Return the first node of a path with a key or value that is not finite.

    Whatever the model reads behind it is not finite, either.
    """
    for node in path:
        kept = [x for x in (rows(node), node.snapshot) if x is not None]
        arrays = [array for x in kept for array in x.arrays]
        if not all(mx.isfinite(array).all().item() for array in arrays):
            return node
    return None


def _arrays(path: list[PrefixNode]) -> list[Any]:
    return [node.snapshot.arrays for node in path if node.snapshot is not None]
