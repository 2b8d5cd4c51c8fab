"""Keys and values of the tokens so far; knows nothing of attention or weights.

`FullCache` keeps every key and can be trimmed. `WindowCache` keeps the last `window`
keys; what left it is gone, but its state can be kept and put back. `Cache` holds one or
the other for each layer: take a `snapshot()` at a point worth coming back to, and
`restore()` goes there without reading the prompt again.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

State = tuple[int, mx.array | None, mx.array | None]  # offset, keys, values

GROWTH = 256  # tokens added to a full cache at a time


class FullCache:
    """Every key and value of one layer, in preallocated arrays written in place."""

    def __init__(self) -> None:
        self.offset = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
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
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Add (B, Hk, L, D); return what the new queries may see (B, Hk, S, D).

        One token gets exactly the keys of its window, in any order. More get the
        window - 1 keys before them and their own, in order.
        """
        L = k.shape[2]
        old, self.offset = self.offset, self.offset + L
        if L > 1:
            k, self._keys = append(self._keys, k, old, self.window)
            v, self._values = append(self._values, v, old, self.window)
            return k, v
        self._keys = put(self._keys, k, old, self.window)
        self._values = put(self._values, v, old, self.window)
        held = min(self.offset, self.window)
        return self._keys[:, :, :held], self._values[:, :, :held]

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
        return [x for x in (self._keys, self._values) if x is not None]


def put(ring: mx.array | None, new: mx.array, offset: int, window: int) -> mx.array:
    """Write one token in its slot."""
    if ring is None:
        B, Hk, _, D = new.shape
        ring = mx.zeros((B, Hk, window, D), new.dtype)
    slot = offset % window
    ring[:, :, slot : slot + 1] = new
    return ring


def append(
    ring: mx.array | None, new: mx.array, offset: int, window: int
) -> tuple[mx.array, mx.array]:
    """Return the keys before and in the chunk, in order, and the ring after it."""
    B, Hk, L, D = new.shape
    if ring is None or offset == 0:
        ordered = new
    elif offset <= window:
        ordered = mx.concatenate([ring[:, :, :offset], new], axis=2)
    else:
        slot = offset % window
        ordered = mx.concatenate([ring[:, :, slot:], ring[:, :, :slot], new], axis=2)
    end = offset + L
    if end <= window:
        room = mx.zeros((B, Hk, window - end, D), new.dtype)
        return ordered, mx.concatenate([ordered, room], axis=2)
    last = ordered[:, :, -window:]
    split = window - end % window  # how many of them lie at the ring's end
    ring = mx.concatenate([last[:, :, split:], last[:, :, :split]], axis=2)
    return ordered[:, :, -(window - 1 + L) :], ring


@dataclass(frozen=True)
class Snapshot:
    """A point of a conversation to come back to: what trimming cannot bring back."""

    offset: int
    windows: tuple[State, ...]

    @property
    def nbytes(self) -> int:
        arrays = [x for state in self.windows for x in state[1:] if x is not None]
        return sum(x.nbytes for x in arrays)


class Cache:
    """One FullCache or WindowCache a layer."""

    def __init__(self, layers: Sequence[FullCache | WindowCache]) -> None:
        self.layers = tuple(layers)

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

    def can_trim(self, count: int) -> bool:
        """Say whether the last `count` tokens can be forgotten without a snapshot."""
        return all(layer.can_trim(count) for layer in self.layers)

    def trim(self, count: int) -> None:
        """Forget the last `count` tokens, where `can_trim` says so."""
        for layer in self.layers:
            layer.trim(count)
