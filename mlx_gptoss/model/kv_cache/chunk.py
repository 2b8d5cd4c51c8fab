"""Consecutive new tokens of one row: where they are written, and what they see.

Dimensions: Hk key/value heads, L new tokens, S keys, D head dim.
"""

import mlx.core as mx

from mlx_gptoss.model.kv_cache.cache import KVCache, prepare
from mlx_gptoss.model.kv_cache.snapshot import KeysValues
from mlx_gptoss.model.kv_cache.window import append_in_order, make_ring


class RowChunk:
    """Consecutive new tokens of one row."""

    def __init__(self, cache: KVCache, length: int) -> None:
        prepare([cache], [length])
        self._cache = cache
        self._length = length
        self._end = cache.offset + length

    def write(self, place: int, k: mx.array, v: mx.array) -> None:
        """Write keys and values (1, Hk, L, D) of a full layer."""
        cache = self._cache
        assert cache.slabs is not None
        cache.slabs.write(place, cache.slot, cache.offset - cache.shared, k, v)

    def view(self, place: int) -> KeysValues:
        """Return all keys and values (1, Hk, S, D) of a full layer, in order.

        A copy if the first of them are those of a base.
        """
        cache = self._cache
        assert cache.slabs is not None
        length = self._end - cache.shared
        own = cache.slabs.view(place, cache.slot, cache.slot + 1, length)
        if cache.base is None:
            return own
        pairs = zip(cache.base.view(place, cache.shared), own, strict=True)
        keys, values = (mx.concatenate(list(pair), axis=2) for pair in pairs)
        return keys, values

    def advance(self) -> None:
        """Count the new tokens, which every layer has written."""
        self._cache.offset = self._end

    def update(self, layer: int, k: mx.array, v: mx.array) -> KeysValues:
        """Write (1, Hk, L, D) of a layer; return what its queries see."""
        place = self._cache.pool.places[layer]
        if self._cache.pool.sliding[layer]:
            return self.update_ring(place, k, v)
        self.write(place, k, v)
        return self.view(place)

    def update_ring(self, place: int, k: mx.array, v: mx.array) -> KeysValues:
        """Write (1, Hk, L, D) of a window layer; return what its queries may see.

        A single token gets exactly the keys of its window, in any order. Several get
        the window - 1 keys before them and their own, in order.
        """
        cache, rings, old = self._cache, self._cache.pool.rings, self._cache.offset
        slot, window = cache.ring, rings.capacity
        assert slot is not None
        if self._length == 1:
            rings.write(place, slot, old % window, k, v)
            save_ring(cache, place, self._end)
            return rings.view(place, slot, slot + 1, min(self._end, window))
        if old:
            before = rings.view(place, slot, slot + 1, window)
            k, v = (
                append_in_order(ring, new, old)
                for ring, new in zip(before, (k, v), strict=True)
            )
        for offset in sorted(cache.snapshot_offsets):
            if old < offset <= self._end:
                later = self._end - offset
                keys, values = (make_ring(x, later, offset, window) for x in (k, v))
                cache.saved_states.setdefault(offset, []).append((offset, keys, values))
        newest = (make_ring(x, 0, self._end, window) for x in (k, v))
        rings.write(place, slot, 0, *newest)
        seen = window - 1 + self._length
        return k[:, :, -seen:], v[:, :, -seen:]


def save_ring(cache: KVCache, place: int, offset: int) -> None:
    """Save the rings of a window layer if a snapshot was requested at `offset`."""
    if offset in cache.snapshot_offsets:
        saved = cache.copy_ring(place, offset)
        cache.saved_states.setdefault(offset, []).append(saved)
