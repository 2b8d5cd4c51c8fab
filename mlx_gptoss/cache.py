"""Keys and values of the tokens so far; knows nothing of attention or weights.

`FullCache` keeps every key and can be trimmed. `WindowCache` keeps the last `window`
keys; what left it is gone, but its state can be kept and put back. `Cache` holds one or
the other for each layer: take a `snapshot()` at a point worth coming back to, or
`mark` such points before a chunk passes them, and `restore()` goes there without
reading the prompt again. What the full layers hold of a stretch of tokens can be taken
out as `Rows` and put into another cache: `rebuild` goes to any point that way.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

State = tuple[int, mx.array | None, mx.array | None]  # offset, keys, values
Pair = tuple[mx.array, mx.array]  # keys, values

GROWTH = 256  # tokens added to a full cache at a time
SLACK = 8 * GROWTH  # tokens of unused room that are not worth a copy to be rid of


class FullCache:
    """Every key and value of one layer, in preallocated arrays written in place."""

    def __init__(self) -> None:
        self.offset = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, k: mx.array, v: mx.array) -> Pair:
        """Append (B, Hk, L, D); return all keys and values (B, Hk, S, D) in order."""
        start, end = self.offset, self.offset + k.shape[2]
        self._keys = reserve(self._keys, k, start, end)
        self._values = reserve(self._values, v, start, end)
        self._keys[:, :, start:end] = k
        self._values[:, :, start:end] = v
        self.offset = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def can_trim(self, count: int) -> bool:
        return 0 <= count <= self.offset

    def trim(self, count: int) -> None:
        """Forget the last `count` tokens."""
        assert self.can_trim(count), f"{count=} {self.offset=}"
        self.offset -= count

    def rows(self, start: int, end: int) -> Pair:
        """Copy the keys and values (B, Hk, end - start, D) of a stretch."""
        keys, values = self._keys, self._values
        assert keys is not None and values is not None and end <= self.offset
        # `mx.array` copies; a slice would share memory and make later writes copy.
        return mx.array(keys[:, :, start:end]), mx.array(values[:, :, start:end])

    def rebuild(self, length: int, parts: Sequence[Pair]) -> None:
        """Keep the first `length` tokens and append what was taken out elsewhere."""
        self.trim(self.offset - length)
        end = length + sum(k.shape[2] for k, _ in parts)
        for k, v in parts:
            start, self.offset = self.offset, self.offset + k.shape[2]
            self._keys = reserve(self._keys, k, start, end)
            self._values = reserve(self._values, v, start, end)
            self._keys[:, :, start : self.offset] = k
            self._values[:, :, start : self.offset] = v
        keys, values = self._keys, self._values
        if keys is None or values is None or keys.shape[2] - end <= end + SLACK:
            return
        self._keys = reserve(None, keys, 0, end)
        self._values = reserve(None, values, 0, end)
        self._keys[:, :, :end] = keys[:, :, :end]
        self._values[:, :, :end] = values[:, :, :end]

    @property
    def state(self) -> State:
        """The offset and, of that length, keys and values (B, Hk, S, D) in order."""
        keys, values = self._keys, self._values
        if keys is None or values is None:
            return self.offset, None, None
        end = self.offset
        return end, keys[:, :, :end], values[:, :, :end]

    @state.setter
    def state(self, state: State) -> None:
        self.offset, keys, values = state
        self._keys = None if keys is None else keys[...]
        self._values = None if values is None else values[...]

    @property
    def arrays(self) -> list[mx.array]:
        """What must be evaluated for the cache to be complete."""
        return [x for x in (self._keys, self._values) if x is not None]


def reserve(stored: mx.array | None, new: mx.array, start: int, end: int) -> mx.array:
    """Return an array with room for `end` tokens that keeps the first `start`."""
    if stored is not None and end <= stored.shape[2]:
        return stored
    B, Hk, _, D = new.shape
    missing = -(-end // GROWTH) * GROWTH - start
    room = mx.zeros((B, Hk, missing, D), new.dtype)
    if stored is None or start == 0:
        return room
    return mx.concatenate([stored[:, :, :start], room], axis=2)


class WindowCache:
    """The last `window` keys and values of one layer, in a ring.

    Position p lies in slot p mod window. A single new token therefore overwrites the
    one that left the window, and all slots are what it sees: their order is of no
    matter to attention, since keys are rotated before they are stored.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.offset = 0
        self.marks: frozenset[int] = frozenset()  # offsets whose state is to be kept
        self.marked: dict[int, State] = {}  # those passed since
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, k: mx.array, v: mx.array) -> Pair:
        """Add (B, Hk, L, D); return what the new queries may see (B, Hk, S, D).

        One token gets exactly the keys of its window, in any order. More get the
        window - 1 keys before them and their own, in order.
        """
        L = k.shape[2]
        old, self.offset = self.offset, self.offset + L
        if L == 1:
            self._keys = put(self._keys, k, old, self.window)
            self._values = put(self._values, v, old, self.window)
            if self.offset in self.marks:
                self.marked[self.offset] = self.state
            held = min(self.offset, self.window)
            return self._keys[:, :, :held], self._values[:, :, :held]
        k = ordered(self._keys, k, old, self.window)
        v = ordered(self._values, v, old, self.window)
        for offset in sorted(self.marks):
            if old < offset < self.offset:
                self.marked[offset] = (offset, *self._rings(k, v, offset))
        self._keys, self._values = self._rings(k, v, self.offset)
        if self.offset in self.marks:
            self.marked[self.offset] = self.state
        seen = self.window - 1 + L
        return k[:, :, -seen:], v[:, :, -seen:]

    def _rings(self, k: mx.array, v: mx.array, offset: int) -> Pair:
        """Make the rings at `offset` of keys in order that end at `self.offset`."""
        later = self.offset - offset
        return ring_of(k, later, offset, self.window), ring_of(
            v, later, offset, self.window
        )

    def can_trim(self, count: int) -> bool:
        """Say whether the window of the earlier position is still all here."""
        return 0 <= count <= self.offset and (count == 0 or self.offset <= self.window)

    def trim(self, count: int) -> None:
        """Forget the last `count` tokens; possible until the ring first wraps."""
        assert self.can_trim(count), f"{count=} {self.offset=} {self.window=}"
        self.offset -= count

    @property
    def state(self) -> State:
        """The offset and the rings as they are now; later updates copy first."""
        keys, values = self._keys, self._values
        if keys is None or values is None:
            return self.offset, None, None
        # `[...]` is a second handle on the same memory, so `put` cannot write in it.
        return self.offset, keys[...], values[...]

    @state.setter
    def state(self, state: State) -> None:
        self.offset, keys, values = state
        self._keys = None if keys is None else keys[...]
        self._values = None if values is None else values[...]

    @property
    def arrays(self) -> list[mx.array]:
        """What must be evaluated for the cache to be complete."""
        states = [(self._keys, self._values), *(s[1:] for s in self.marked.values())]
        return [x for state in states for x in state if x is not None]


def put(ring: mx.array | None, new: mx.array, offset: int, window: int) -> mx.array:
    """Write one token in its slot."""
    if ring is None:
        B, Hk, _, D = new.shape
        ring = mx.zeros((B, Hk, window, D), new.dtype)
    slot = offset % window
    ring[:, :, slot : slot + 1] = new
    return ring


def ordered(ring: mx.array | None, new: mx.array, offset: int, window: int) -> mx.array:
    """Return the keys the ring holds and the new ones, in order."""
    if ring is None or offset == 0:
        return new
    if offset <= window:
        return mx.concatenate([ring[:, :, :offset], new], axis=2)
    slot = offset % window
    return mx.concatenate([ring[:, :, slot:], ring[:, :, :slot], new], axis=2)


def ring_of(keys: mx.array, later: int, offset: int, window: int) -> mx.array:
    """Return the ring at `offset`, given keys in order up to `later` tokens after it.

    Always an own array: a slice would hold the memory of the whole chunk.
    """
    end = keys.shape[2] - later
    last = keys[:, :, max(0, end - window) : end]
    if offset <= window:
        B, Hk, held, D = last.shape
        room = mx.zeros((B, Hk, window - held, D), keys.dtype)
        return mx.concatenate([last, room], axis=2)
    split = window - offset % window  # how many of them lie at the ring's end
    return mx.concatenate([last[:, :, split:], last[:, :, :split]], axis=2)


@dataclass(frozen=True)
class Rows:
    """What the full layers hold of a stretch of tokens: an own copy."""

    layers: tuple[Pair, ...]  # (B, Hk, n, D) each

    @property
    def arrays(self) -> list[mx.array]:
        return [x for pair in self.layers for x in pair]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.arrays)

    @staticmethod
    def joined(parts: "Sequence[Rows]") -> "Rows":
        """Join stretches that follow each other."""
        layers = zip(*(part.layers for part in parts), strict=True)
        return Rows(
            tuple(
                (
                    mx.concatenate([k for k, _ in pairs], axis=2),
                    mx.concatenate([v for _, v in pairs], axis=2),
                )
                for pairs in layers
            )
        )

    def part(self, start: int, end: int) -> "Rows":
        """Copy a stretch of it."""
        return Rows(
            tuple(
                (mx.array(k[:, :, start:end]), mx.array(v[:, :, start:end]))
                for k, v in self.layers
            )
        )


@dataclass(frozen=True)
class Snapshot:
    """A point of a conversation to come back to: what trimming cannot bring back."""

    offset: int
    windows: tuple[State, ...]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        return [x for state in self.windows for x in state[1:] if x is not None]


class Cache:
    """One FullCache or WindowCache a layer."""

    def __init__(self, layers: Sequence[FullCache | WindowCache]) -> None:
        self.layers = tuple(layers)
        self._marks: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[FullCache | WindowCache]:
        return iter(self.layers)

    @property
    def offset(self) -> int:
        """How many tokens it has seen."""
        return self.layers[0].offset

    @property
    def arrays(self) -> list[mx.array]:
        """What to evaluate after prefill, whose logits nobody reads."""
        return [x for layer in self.layers for x in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(x.nbytes for x in self.arrays)

    def snapshot(self) -> Snapshot:
        """Keep the window layers as they are now (no copy until they change)."""
        windows = [x.state for x in self.layers if isinstance(x, WindowCache)]
        return Snapshot(self.offset, tuple(windows))

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this cache: windows put back, full layers trimmed.

        The full layers must still begin with the tokens they had at the snapshot.
        """
        assert snapshot.offset <= self.offset, f"{snapshot.offset=} {self.offset=}"
        states = iter(snapshot.windows)
        for layer in self.layers:
            if isinstance(layer, WindowCache):
                layer.state = next(states)
            else:
                layer.trim(layer.offset - snapshot.offset)

    def mark(self, offsets: Iterable[int]) -> None:
        """Take snapshots when these offsets are passed, and no others any more."""
        self._marks = frozenset(offsets)
        for layer in self._windows:
            layer.marks = self._marks

    def take_snapshots(self) -> list[Snapshot]:
        """Hand over the snapshots of marks that were passed since, in order."""
        passed = sorted(mark for mark in self._marks if mark <= self.offset)
        if not passed:
            return []
        self.mark(self._marks.difference(passed))
        return [
            Snapshot(offset, tuple(x.marked.pop(offset) for x in self._windows))
            for offset in passed
        ]

    def rows(self, start: int, end: int) -> Rows:
        """Copy what the full layers hold of tokens `start` to `end`."""
        return Rows(tuple(layer.rows(start, end) for layer in self._full))

    def rebuild(
        self, length: int, rows: Sequence[Rows], snapshot: Snapshot | None = None
    ) -> None:
        """Keep the first `length` tokens, append `rows`, put back the windows there.

        `snapshot` is that of the end, or None if the cache stands there already.
        Peak: the rows of one layer more than what is kept.
        """
        for n, layer in enumerate(self._full):
            layer.rebuild(length, [part.layers[n] for part in rows])
            mx.eval(layer.arrays)  # layer by layer, so that one is held twice
        if snapshot is not None:
            for layer, state in zip(self._windows, snapshot.windows, strict=True):
                layer.state = state

    @property
    def _windows(self) -> list[WindowCache]:
        return [x for x in self.layers if isinstance(x, WindowCache)]

    @property
    def _full(self) -> list[FullCache]:
        return [x for x in self.layers if isinstance(x, FullCache)]

    def can_trim(self, count: int) -> bool:
        """Say whether the last `count` tokens can be forgotten without a snapshot."""
        return all(layer.can_trim(count) for layer in self.layers)

    def trim(self, count: int) -> None:
        """Forget the last `count` tokens, where `can_trim` says so."""
        for layer in self.layers:
            layer.trim(count)
