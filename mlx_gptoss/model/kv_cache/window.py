"""The last keys and values of one layer; knows nothing of the other layers.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

import mlx.core as mx

from mlx_gptoss.model.kv_cache.snapshot import KeysValues, LayerState


class WindowCache:
    """The last `window` keys and values of one layer, in a ring.

    Position p lies in slot p mod window. A single new token therefore overwrites the
    one that left the window, and all slots are what it sees: their order is of no
    matter to attention, since keys are rotated before they are stored.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.offset = 0
        self.snapshot_offsets: frozenset[int] = (
            frozenset()
        )  # offsets whose state is to be kept
        self.states: dict[int, LayerState] = {}  # those passed since
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, k: mx.array, v: mx.array) -> KeysValues:
        """Add (B, Hk, L, D); return what the new queries may see (B, Hk, S, D).

        One token gets exactly the keys of its window, in any order. More get the
        window - 1 keys before them and their own, in order.
        """
        L = k.shape[2]
        old, self.offset = self.offset, self.offset + L
        if L == 1:
            self._keys = write_token(self._keys, k, old, self.window)
            self._values = write_token(self._values, v, old, self.window)
            if self.offset in self.snapshot_offsets:
                self.states[self.offset] = self.state
            held = min(self.offset, self.window)
            return self._keys[:, :, :held], self._values[:, :, :held]
        k = append_in_order(self._keys, k, old, self.window)
        v = append_in_order(self._values, v, old, self.window)
        for offset in sorted(self.snapshot_offsets):
            if old < offset < self.offset:
                self.states[offset] = (offset, *self._rings_at(k, v, offset))
        self._keys, self._values = self._rings_at(k, v, self.offset)
        if self.offset in self.snapshot_offsets:
            self.states[self.offset] = self.state
        seen = self.window - 1 + L
        return k[:, :, -seen:], v[:, :, -seen:]

    def _rings_at(self, k: mx.array, v: mx.array, offset: int) -> KeysValues:
        """Make the rings at `offset` of keys in order that end at `self.offset`."""
        later = self.offset - offset
        return make_ring(k, later, offset, self.window), make_ring(
            v, later, offset, self.window
        )

    @property
    def length(self) -> int:
        """How many keys are here."""
        return min(self.offset, self.window)

    @property
    def buffers(self) -> KeysValues:
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
    def state(self) -> LayerState:
        """The offset and the rings as they are now; later updates copy first."""
        keys, values = self._keys, self._values
        if keys is None or values is None:
            return self.offset, None, None
        # `[...]` is a second handle on the same memory, so `put` cannot write in it.
        return self.offset, keys[...], values[...]

    @state.setter
    def state(self, state: LayerState) -> None:
        self.offset, keys, values = state
        self._keys = None if keys is None else keys[...]
        self._values = None if values is None else values[...]

    @property
    def arrays(self) -> list[mx.array]:
        """What must be evaluated for the cache to be complete."""
        states = [(self._keys, self._values), *(s[1:] for s in self.states.values())]
        return [x for state in states for x in state if x is not None]


def write_token(
    ring: mx.array | None, new: mx.array, offset: int, window: int
) -> mx.array:
    """Write one token in its slot."""
    if ring is None:
        B, Hk, _, D = new.shape
        ring = mx.zeros((B, Hk, window, D), new.dtype)
    slot = offset % window
    ring[:, :, slot : slot + 1] = new
    return ring


def append_in_order(
    ring: mx.array | None, new: mx.array, offset: int, window: int
) -> mx.array:
    """Return the keys the ring holds and the new ones, in order."""
    if ring is None or offset == 0:
        return new
    if offset <= window:
        return mx.concatenate([ring[:, :, :offset], new], axis=2)
    slot = offset % window
    return mx.concatenate([ring[:, :, slot:], ring[:, :, :slot], new], axis=2)


def make_ring(keys: mx.array, later: int, offset: int, window: int) -> mx.array:
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
