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
from mlx_gptoss.engine.prompt_cache.live import Live
from mlx_gptoss.engine.prompt_cache.options import DEFAULT_LIMIT
from mlx_gptoss.engine.prompt_cache.tree import Node, Tree, as_tokens, common
from mlx_gptoss.errors import NonFiniteError, StorageError

SNAPSHOT_EVERY = 2048  # tokens without a message end
WORTH_A_SNAPSHOT = 64  # tokens of an unfinished message
KEPT_SNAPSHOTS = 4  # the newest of a live conversation, which are never given up
RETRY_SECONDS = 60.0  # after which a disk that took nothing is tried again
MOST_IDLE = 1  # live sequences kept whole while nobody uses them

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
        self.held = 0
        self.tree = Tree()
        self._make_cache = make_cache
        self._message_ends = as_tokens(message_ends)
        self._lives: list[Live] = []
        self._files = files
        self._writes_from = 0.0  # seconds of the monotonic clock
        self._failed = False
        self._counts = CacheStatistics()
        if files is not None:
            files.plant(self.tree)

    def lease(
        self, ids: Sequence[int], *, ahead: bool = False, shared: bool = False
    ) -> "Lease":
        """Put a cache to the longest known prefix of `ids`; release it after use.

        At least one token of `ids` is left to read, unless this is reading `ahead`.
        If they are `shared`, others will ask for the same: all but that token is kept
        for them, however little it is.
        """
        wanted = as_tokens(ids)
        live = self._stand(wanted if ahead else wanted[:-1])
        live.busy = True
        self._touch(live)
        if not ahead:
            self._count(
                requests=1, prompt_tokens=len(wanted), cached_tokens=live.cache.offset
            )
        marks = self._marks(live, wanted, ahead=ahead)
        if shared and len(wanted) - 1 > live.cache.offset:
            marks.append(len(wanted) - 1)
        live.cache.request_snapshots(marks)
        self._evict()
        self._weigh()
        return Lease(self, live, ahead=ahead)

    def save(self, ids: Sequence[int]) -> bool:
        """Write the next part of `ids` that is not on disk; say if there was any.

        A disk that does not take it is a warning, and is asked again after a while.
        """
        files = self._files
        if files is None or time.monotonic() < self._writes_from:
            return False
        run: list[Node] = []  # a file ends on a snapshot, so it may hold several nodes
        for node in self.tree.match(as_tokens(ids)):
            if node.file is not None:
                if run:
                    break
                continue
            run.append(node)
            length = node.end - run[0].start
            if node.snapshot is not None and length >= files.least:
                return self._write(files, run)
        return False

    def _write(self, files: PromptFiles, run: list[Node]) -> bool:
        try:
            self._forget_files(files.write(run, [self._rows(node) for node in run]))
        except StorageError as error:
            if not self._failed:
                log.warning("prompts are no longer kept in `%s`: %s", files.root, error)
            self._writes_from = time.monotonic() + RETRY_SECONDS
            self._failed = True
            return False
        if self._failed:
            log.warning("prompts are kept in `%s` again", files.root)
            self._failed = False
        return run[-1].file is not None

    def _forget_files(self, names: set[str]) -> None:
        for node in list(self.tree) if names else ():
            if node.file is not None and node.file.name in names:
                node.file = None
                if node.homeless and node.parent is not None:
                    self.tree.remove(node)

    def clear(self) -> None:
        """Forget all that is not in use; files stay."""
        for live in [x for x in self._lives if not x.busy]:
            self._drop(live)
        for node in list(self.tree):
            if not node.live and node.parent is not None:
                self.tree.remove(node)
        self._weigh()

    def forget_broken(self, live: Live) -> None:
        """Forget what a sequence stands on, from where its numbers are not finite.

        Later prompts would begin with it, and never be answered.
        """
        broken = first_broken(live.path, self._rows)
        if broken is None:
            return
        gone = list(broken.below())
        self.tree.remove(broken)
        for other in [x for x in self._lives if not x.busy and broken in x.path]:
            self._drop(other, trusted=False)
        names = {node.file.name for node in gone if node.file is not None}
        if self._files is not None and names:
            self._files.discard(names)
            self._forget_files(names)
        for node in gone:
            node.rows = node.snapshot = node.file = None

    def make_room(self, most: int) -> None:
        """Keep no more than `most` bytes, but for the caches in use."""
        self._evict(most)
        for live in sorted(self._lives, key=lambda live: live.used):
            if not live.busy and self.nbytes > most:
                self._drop(live, trusted=False)
        self._weigh()

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, each once."""
        lives = sum(live.cache.nbytes for live in self._lives)
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

    def _stand(self, wanted: np.ndarray) -> Live:
        """Return an idle sequence that stands at the best known point."""
        while True:
            live, target = self._choose(self.tree.match(wanted))
            kept = common(live.path, target)
            if kept == len(live.path) == len(target) and live.cache.offset == live.end:
                return live
            try:
                self._load(target, kept)
                self._move(live, target, kept)
            except UnusableFile as error:
                log.warning("%s", error)
                self.tree.remove(error.node)
            except BaseException:  # no telling what the cache holds now
                self._drop(live, trusted=False)
                raise
            else:
                return live

    def _load(self, target: list[Node], kept: int) -> None:
        """Bring what lies on disk only into memory. Raises UnusableFile."""
        for node in target[kept:]:
            if not node.live and node.rows is None:
                node.rows, snapshot = node.file.load(node)
                node.snapshot = node.snapshot or snapshot
        if target and target[-1].snapshot is None:
            target[-1].snapshot = target[-1].file.load(target[-1])[1]
        if self._files is not None:
            self._files.touch(target)

    def _choose(self, known: list[Node]) -> tuple[Live, list[Node]]:
        """Say where to go in a known path, and which sequence goes there."""
        points = [n for n, node in enumerate(known, start=1) if node.restorable]
        target = known[: points[-1]] if points else []
        idle = [live for live in self._lives if not live.busy]
        for live in idle:  # where one stands, no snapshot is needed
            depth = len(live.path)
            if depth > len(target) and live.path == known[:depth]:
                return live, known[:depth]
        if not idle:
            self._lives.append(Live(self._make_cache()))
            return self._lives[-1], target
        return max(idle, key=lambda x: (common(x.path, target), x.used)), target

    def _rows(self, node: Node) -> Any:
        """What the full layers hold of a node, from where it lies in memory."""
        if node.live:
            return node.live[0].cache.copy_segment(node.start, node.end)
        return node.rows

    def _move(self, live: Live, target: list[Node], kept: int) -> None:
        """Put a sequence to the end of `target`, of which it has `kept` nodes."""
        rows = [self._rows(node) for node in target[kept:]]
        self._spill(live, kept)
        if target:
            live.cache.rebuild(live.end, rows, target[-1].snapshot)
        else:
            live.cache = self._make_cache()
        for node in target[kept:]:
            live.push(node)

    def _spill(self, live: Live, kept: int) -> None:
        """Copy out what a sequence holds alone past its first `kept` nodes."""
        if len(live.path) > kept:
            last = live.path[-1]
            if not last.restorable and len(last.tokens) >= WORTH_A_SNAPSHOT:
                last.snapshot = live.cache.snapshot()
        while len(live.path) > kept:  # from the end: what follows is settled
            node = live.pop()
            if node.live:
                continue
            if node.restorable or node.children:
                node.rows = live.cache.copy_segment(node.start, node.end)
                mx.eval(node.rows.arrays)
            else:
                self.tree.remove(node)

    def _drop(self, live: Live, *, trusted: bool = True) -> None:
        """Give up a sequence; what it held alone is kept if it can be trusted."""
        self._lives.remove(live)
        if trusted:
            self._spill(live, 0)
        while live.path:
            node = live.pop()
            if node.homeless:
                self.tree.remove(node)

    def _marks(self, live: Live, wanted: np.ndarray, *, ahead: bool) -> list[int]:
        """Where snapshots are due: message ends, and in between if they are far."""
        at, total = live.cache.offset, len(wanted)
        ends = np.flatnonzero(np.isin(wanted[at:], self._message_ends)) + at + 1
        points = [n.end for n in live.path if n.restorable][-1:] or [0]
        for end in [*ends.tolist(), total]:
            points += range(points[-1] + SNAPSHOT_EVERY, end, SNAPSHOT_EVERY)
            if end < total or (len(ends) and ends[-1] == total):
                points.append(end)
        # A prompt that ends within a message is asked again or gone on with: one
        # token must be left to read.
        last = total if ahead else total - 1
        if last - points[-1] >= WORTH_A_SNAPSHOT:
            points.append(last)
        return [point for point in points if point > at]

    def _read(self, live: Live, ids: Sequence[int]) -> None:
        """Take note that the cache of a sequence has read `ids`."""
        live.pending += ids
        for snapshot in live.cache.take_snapshots():
            mx.eval(snapshot.arrays)  # or it would hold on to the whole chunk
            self._commit(live, snapshot.offset - live.end, snapshot)
        ended = len(ids) == 1 and ids[0] in self._message_ends
        if live.pending and (ended or len(live.pending) >= SNAPSHOT_EVERY):
            self._commit(live, len(live.pending), live.cache.snapshot())

    def _commit(self, live: Live, count: int, snapshot: Any = None) -> None:
        """Move the first `count` pending tokens of a sequence into the tree."""
        tokens, live.pending = as_tokens(live.pending[:count]), live.pending[count:]
        nodes = self.tree.extend(live.path[-1] if live.path else self.tree.root, tokens)
        for node in nodes:
            live.push(node)
        if nodes and not nodes[-1].restorable:
            nodes[-1].snapshot = snapshot
        self._touch(live)
        self._weigh()

    def _release(self, live: Live) -> None:
        """Keep a sequence where it stands."""
        assert live.cache.offset == live.end + len(live.pending), (
            f"{live.cache.offset=} {live.end=} {len(live.pending)=}"
        )
        self._commit(live, len(live.pending))
        live.cache.request_snapshots(())
        live.busy = False
        # Unevaluated, they would hold on to all that they were computed from.
        mx.eval([live.cache.arrays, *_arrays(live.path)])
        idle = sorted((x for x in self._lives if not x.busy), key=lambda x: x.used)
        for old in idle[:-MOST_IDLE]:
            self._drop(old)
        self._evict()
        self._weigh()

    def _touch(self, live: Live) -> None:
        live.used = self._counts.requests
        for node in live.path:
            node.used = live.used

    def _count(self, **more: int) -> None:
        """Add to the statistics."""
        sums = {name: getattr(self._counts, name) + n for name, n in more.items()}
        self._counts = replace(self._counts, **sums)

    def _weigh(self) -> None:
        self.held = self.nbytes

    def _evict(self, most: int | None = None) -> None:
        """Bring memory under the limit, least recently used first.

        What live sequences hold stays. Of their snapshots old ones go at last.
        """
        excess = self.nbytes - (self.limit if most is None else most)
        if excess <= 0:
            return
        stored = [node for node in self.tree if node.nbytes and not node.live]
        # Whoever used a node used all before it: of equals the later go first.
        for node in sorted(stored, key=lambda node: (node.used, -node.start)):
            if excess <= 0:
                return
            excess -= node.nbytes
            self._count(evicted_tokens=len(node.tokens))
            node.rows = node.snapshot = None
            if node.homeless:
                self.tree.remove(node)
        for node in self._spare_snapshots():
            if excess <= 0:
                return
            excess -= node.snapshot.nbytes
            node.snapshot = None

    def _spare_snapshots(self) -> Iterator[Node]:
        """Nodes of live sequences whose snapshots can be done without."""
        for live in self._lives:
            kept = [node for node in live.path if node.snapshot is not None]
            yield from kept[:-KEPT_SNAPSHOTS]


class Lease:
    """A cache to oneself, standing at a known prefix of a prompt."""

    def __init__(self, owner: PromptCache, live: Live, *, ahead: bool) -> None:
        self._owner = owner
        self._live = live
        self._ahead = ahead
        self.cached = live.cache.offset  # tokens that need not be read

    @property
    def cache(self) -> Any:
        """The cache to feed."""
        return self._live.cache

    def fed(self, ids: Sequence[int]) -> None:
        """Tell that the cache has read `ids` and nothing later, evaluated or not."""
        self._owner._read(self._live, ids)
        if self._ahead:
            self._owner._count(prepared_tokens=len(ids))

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
            self.drop(broken=issubclass(kind, NonFiniteError))

    def release(self) -> None:
        """Give the cache back; what it holds is kept."""
        self._owner._release(self._live)

    def drop(self, *, broken: bool = False) -> None:
        """Give it up, because nothing in it can be trusted.

        With `broken`, what it began with is not trusted either.
        """
        if broken:
            self._owner.forget_broken(self._live)
        self._owner._drop(self._live, trusted=False)
        self._owner._weigh()


def first_broken(path: Sequence[Node], rows: Callable[[Node], Any]) -> Node | None:
    """Return the first node of a path with a key or value that is not finite.

    Whatever the model reads behind it is not finite, either.
    """
    for node in path:
        kept = [x for x in (rows(node), node.snapshot) if x is not None]
        arrays = [array for x in kept for array in x.arrays]
        if not all(mx.isfinite(array).all().item() for array in arrays):
            return node
    return None


def _arrays(path: list[Node]) -> list[Any]:
    return [node.snapshot.arrays for node in path if node.snapshot is not None]
