"""KV cache of one full-attention layer; knows nothing of the other layers.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_gptoss.model.kv_cache.snapshot import KeysValues, LayerState

GROWTH = 256  # tokens by which the buffers grow
MAX_SLACK = 8 * GROWTH  # unused tokens that are not worth a copy to release


class FullCache:
    """All keys and values of one layer, in preallocated arrays written in place."""

    def __init__(self) -> None:
        self.offset = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    def update(self, k: mx.array, v: mx.array) -> KeysValues:
        """Append (B, Hk, L, D); return all keys and values (B, Hk, S, D) in order."""
        start, end = self.offset, self.offset + k.shape[2]
        self._keys = reserve(self._keys, k, start, end)
        self._values = reserve(self._values, v, start, end)
        self._keys[:, :, start:end] = k
        self._values[:, :, start:end] = v
        self.offset = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    @property
    def length(self) -> int:
        """Number of keys stored."""
        return self.offset

    @property
    def buffers(self) -> KeysValues:
        """The arrays (B, Hk, capacity, D); keys that `update` returned come first."""
        assert self._keys is not None and self._values is not None
        return self._keys, self._values

    def can_trim(self, count: int) -> bool:
        return 0 <= count <= self.offset

    def trim(self, count: int) -> None:
        """Drop the last `count` tokens."""
        assert self.can_trim(count), f"{count=} {self.offset=}"
        self.offset -= count

    def copy_segment(self, start: int, end: int) -> KeysValues:
        """Copy keys and values (B, Hk, end - start, D) of tokens `start` to `end`."""
        keys, values = self._keys, self._values
        assert keys is not None and values is not None and end <= self.offset
        # `mx.array` copies; a slice would share memory and make later writes copy.
        return mx.array(keys[:, :, start:end]), mx.array(values[:, :, start:end])

    def rebuild(self, length: int, parts: Sequence[KeysValues]) -> None:
        """Keep the first `length` tokens and append copied segments."""
        self.trim(self.offset - length)
        end = length + sum(k.shape[2] for k, _ in parts)
        for k, v in parts:
            start, self.offset = self.offset, self.offset + k.shape[2]
            self._keys = reserve(self._keys, k, start, end)
            self._values = reserve(self._values, v, start, end)
            self._keys[:, :, start : self.offset] = k
            self._values[:, :, start : self.offset] = v
        keys, values = self._keys, self._values
        if keys is None or values is None or keys.shape[2] - end <= end + MAX_SLACK:
            return
        self._keys = reserve(None, keys, 0, end)
        self._values = reserve(None, values, 0, end)
        self._keys[:, :, :end] = keys[:, :, :end]
        self._values[:, :, :end] = values[:, :, :end]

    @property
    def state(self) -> LayerState:
        """The offset, and keys and values (B, Hk, offset, D) in order."""
        keys, values = self._keys, self._values
        if keys is None or values is None:
            return self.offset, None, None
        end = self.offset
        return end, keys[:, :, :end], values[:, :, :end]

    @state.setter
    def state(self, state: LayerState) -> None:
        self.offset, keys, values = state
        self._keys = None if keys is None else keys[...]
        self._values = None if values is None else values[...]

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate for the cache to be complete."""
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
