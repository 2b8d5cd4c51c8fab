"""KV cache of one sliding-window layer; knows nothing of the other layers.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

import mlx.core as mx

from mlx_gptoss.model.kv_cache.snapshot import KeysValues, LayerState


class WindowCache:
    """The last `window` keys and values of one layer, in a ring buffer.

    Position p is in slot p mod window, so one new token overwrites the one that left
    the window and then sees every slot. The order of slots does not matter to
    attention, because keys are rotated before they are stored.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.offset = 0
        self.snapshot_offsets: frozenset[int] = frozenset()  # where to save the state
        self.saved_states: dict[int, LayerState] = {}  # saved at those offsets
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, k: mx.array, v: mx.array) -> KeysValues:
        """Append (B, Hk, L, D); return the keys the new queries may see (B, Hk, S, D).

        A single token gets exactly the keys of its window, in any order. Several get
        the window - 1 keys before them and their own, in order.
        """
        L = k.shape[2]
        old, self.offset = self.offset, self.offset + L
        if L == 1:
            self._keys = write_token(self._keys, k, old, self.window)
            self._values = write_token(self._values, v, old, self.window)
            if self.offset in self.snapshot_offsets:
                self.saved_states[self.offset] = self.state
            count = self.length
            return self._keys[:, :, :count], self._values[:, :, :count]
        k = append_in_order(self._keys, k, old, self.window)
        v = append_in_order(self._values, v, old, self.window)
        for offset in sorted(self.snapshot_offsets):
            if old < offset < self.offset:
                self.saved_states[offset] = (offset, *self._rings_at(k, v, offset))
        self._keys, self._values = self._rings_at(k, v, self.offset)
        if self.offset in self.snapshot_offsets:
            self.saved_states[self.offset] = self.state
        seen = self.window - 1 + L
        return k[:, :, -seen:], v[:, :, -seen:]

    def _rings_at(self, k: mx.array, v: mx.array, offset: int) -> KeysValues:
        """Build the rings at `offset` from ordered keys that end at `self.offset`."""
        later = self.offset - offset
        return make_ring(k, later, offset, self.window), make_ring(
            v, later, offset, self.window
        )

    @property
    def length(self) -> int:
        """Number of keys stored."""
        return min(self.offset, self.window)

    @property
    def buffers(self) -> KeysValues:
        """The arrays (B, Hk, window, D); the keys that `update` returned come first."""
        assert self._keys is not None and self._values is not None
        return self._keys, self._values

    def can_trim(self, count: int) -> bool:
        """Return whether the window of the earlier position is still complete."""
        return 0 <= count <= self.offset and (count == 0 or self.offset <= self.window)

    def trim(self, count: int) -> None:
        """Drop the last `count` tokens; possible until the ring first wraps."""
        assert self.can_trim(count), f"{count=} {self.offset=} {self.window=}"
        self.offset -= count

    @property
    def state(self) -> LayerState:
        """The offset and the current rings; later updates copy before they write."""
        keys, values = self._keys, self._values
        if keys is None or values is None:
            return self.offset, None, None
        # `[...]` adds a reference to the memory, so `write_token` copies first.
        return self.offset, keys[...], values[...]

    @state.setter
    def state(self, state: LayerState) -> None:
        self.offset, keys, values = state
        self._keys = None if keys is None else keys[...]
        self._values = None if values is None else values[...]

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate for the cache to be complete."""
        states = [
            (self._keys, self._values),
            *(s[1:] for s in self.saved_states.values()),
        ]
        return [x for state in states for x in state if x is not None]


def write_token(
    ring: mx.array | None, new: mx.array, offset: int, window: int
) -> mx.array:
    """Write one token into its slot."""
    if ring is None:
        B, Hk, _, D = new.shape
        ring = mx.zeros((B, Hk, window, D), new.dtype)
    slot = offset % window
    ring[:, :, slot : slot + 1] = new
    return ring


def append_in_order(
    ring: mx.array | None, new: mx.array, offset: int, window: int
) -> mx.array:
    """Return the keys in the ring and the new ones, in order."""
    if ring is None or offset == 0:
        return new
    if offset <= window:
        return mx.concatenate([ring[:, :, :offset], new], axis=2)
    slot = offset % window
    return mx.concatenate([ring[:, :, slot:], ring[:, :, :slot], new], axis=2)


def make_ring(keys: mx.array, later: int, offset: int, window: int) -> mx.array:
    """Build the ring at `offset` from ordered keys that end `later` tokens after it.

    Always a new array: a slice would keep the memory of the whole chunk alive.
    """
    end = keys.shape[2] - later
    last = keys[:, :, max(0, end - window) : end]
    if offset <= window:
        B, Hk, count, D = last.shape
        room = mx.zeros((B, Hk, window - count, D), keys.dtype)
        return mx.concatenate([last, room], axis=2)
    split = window - offset % window  # how many of them belong at the end of the ring
    return mx.concatenate([last[:, :, split:], last[:, :, :split]], axis=2)
