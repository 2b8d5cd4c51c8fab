"""The last keys and values of one layer; knows nothing of the other layers.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

import mlx.core as mx

from mlx_gptoss.model.kv_cache.snapshot import Pair, State


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

    @property
    def held(self) -> int:
        """How many keys are here."""
        return min(self.offset, self.window)

    @property
    def stored(self) -> Pair:
        """The arrays (B, Hk, capacity, D) as they are; what `update` gave is first."""
        assert self._keys is not None and self._values is not None
        return self._keys, self._values

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
