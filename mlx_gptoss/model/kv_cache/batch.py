"""The rows of one forward pass, in the order of their slots.

So the rows of one capacity are one view of a slab. Index arrays are made once and serve
all layers.

Dimensions: N packed tokens, Hk key/value heads, L tokens of one row, D head dim.
"""

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise

import mlx.core as mx

from mlx_gptoss.model.kv_cache.base import Base
from mlx_gptoss.model.kv_cache.cache import KVCache, prepare
from mlx_gptoss.model.kv_cache.chunk import RowChunk, save_ring
from mlx_gptoss.model.kv_cache.pool import KVPool
from mlx_gptoss.model.kv_cache.slabs import Slabs
from mlx_gptoss.model.kv_cache.spans import RowGroup, Span, Spans


class PoolRows:
    """The rows of one pool: first those with one token, by slot, then the others."""

    def __init__(
        self, pool: KVPool, rows: Sequence[tuple[KVCache, int]], first: int
    ) -> None:
        self._pool = pool
        ends = accumulate((length for _, length in rows), initial=first)
        tokens = [slice(a, b) for a, b in pairwise(ends)]
        self._chunks = [
            (part, RowChunk(cache, length))
            for part, (cache, length) in zip(tokens, rows, strict=True)
            if length > 1
        ]
        self._decoding = [cache for cache, length in rows if length == 1]
        self._full: list[RowGroup] = []
        self._rings: list[RowGroup] = []
        at, window = first, pool.rings.capacity
        for (slabs, base, shared), group in groupby(self._decoding, key=place_of):
            own = list(group)
            part, at = slice(at, at + len(own)), at + len(own)
            positions = [cache.offset - shared for cache in own]
            slots, lengths = [x.slot for x in own], [n + 1 for n in positions]
            assert slabs is not None
            one = RowGroup(
                slabs, part, slots, positions, lengths, base=base, shared=shared
            )
            self._full.append(one)
        if self._decoding:
            offsets = [cache.offset for cache in self._decoding]
            self._rings = [
                RowGroup(
                    pool.rings,
                    slice(first, at),
                    [cache.ring or 0 for cache in self._decoding],
                    [n % window for n in offsets],
                    [min(n + 1, window) for n in offsets],
                )
            ]

    def update(self, layer: int, k: mx.array, v: mx.array) -> list[Spans]:
        """Write packed keys and values (N, Hk, 1, D); return the attention calls.

        All writes come before all views, so that none has to copy the slab.
        """
        place, seen = self._pool.places[layer], []
        for part, chunk in self._chunks:
            new = k[part].swapaxes(0, 2), v[part].swapaxes(0, 2)  # (1, Hk, L, D)
            if self._pool.sliding[layer]:
                seen.append(chunk.update_ring(place, *new))
            else:
                chunk.write(place, *new)
        groups = self._rings if self._pool.sliding[layer] else self._full
        for group in groups:
            group.write(place, k, v)
        if self._pool.sliding[layer]:
            for cache in self._decoding:
                save_ring(cache, place, cache.offset + 1)
        else:
            seen = [chunk.view(place) for _, chunk in self._chunks]
        found = [group.spans(place) for group in groups]
        for (part, _), pair in zip(self._chunks, seen, strict=True):
            whole = slice(0, part.stop - part.start)
            found.append(Spans(part, [Span(whole, *pair)]))
        return found


def place_of(cache: KVCache) -> tuple[Slabs | None, Base | None, int]:
    """Return what rows must have in common to be attended in one call."""
    return cache.slabs, cache.base, cache.shared


class PackedRows:
    """The rows of one forward pass, in the order in which they are computed.

    `order` has their numbers as given, `lengths` the tokens of each, `positions` those
    of all tokens.
    """

    def __init__(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        prepare(caches, lengths)
        pools = list(dict.fromkeys(cache.pool for cache in caches))

        bases = list(dict.fromkeys(cache.base for cache in caches))

        def place(row: int) -> tuple[int, ...]:
            cache, long = caches[row], lengths[row] > 1
            capacity = cache.slabs.capacity if cache.slabs else 0
            base = bases.index(cache.base), cache.shared
            return pools.index(cache.pool), long, capacity, *base, cache.slot

        self.order = sorted(range(len(caches)), key=place)
        self.lengths = [lengths[row] for row in self.order]
        self._rows = [(caches[row], lengths[row]) for row in self.order]
        self.positions = [cache.offset + n for cache, L in self._rows for n in range(L)]
        self._in_order = self.order == list(range(len(caches)))
        self._starts = list(accumulate(lengths, initial=0))
        self._pools: list[PoolRows] = []
        at = 0
        for pool, group in groupby(self._rows, key=lambda row: row[0].pool):
            own = list(group)
            self._pools.append(PoolRows(pool, own, at))
            at += sum(length for _, length in own)

    def arrange(self, ids: mx.array) -> mx.array:
        """Put packed ids (1, N) in the order of computing."""
        if self._in_order:
            return ids
        tokens = [
            self._starts[row] + n
            for row in self.order
            for n in range(self._starts[row + 1] - self._starts[row])
        ]
        return ids[:, mx.array(tokens)]

    def update(self, layer: int, k: mx.array, v: mx.array) -> list[Spans]:
        """Write packed keys and values (N, Hk, 1, D); return the attention calls."""
        return [spans for pool in self._pools for spans in pool.update(layer, k, v)]

    def restore(self, h: mx.array, *, last: bool) -> mx.array:
        """Put hidden states (1, N, M), or with `last` (1, R, M), in the order given."""
        if self._in_order:
            return h
        lengths = [1] * len(self.order) if last else self.lengths
        starts = list(accumulate(lengths, initial=0))
        place = {row: n for n, row in enumerate(self.order)}
        tokens = [
            starts[place[row]] + n
            for row in range(len(self.order))
            for n in range(lengths[place[row]])
        ]
        return h[:, mx.array(tokens)]

    def advance(self) -> None:
        """Count the new tokens, which every layer has written."""
        for cache, length in self._rows:
            cache.offset += length
