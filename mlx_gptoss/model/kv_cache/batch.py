"""The rows of one forward pass: where each writes its tokens, and what it attends to.

Rows are computed in the order of their slots, so that the rows of one capacity are one
view of a slab. Index arrays are made once and serve all layers.

Dimensions: N packed tokens, Hk key/value heads, L tokens of one row, S keys,
D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import mlx.core as mx

from mlx_gptoss.model.kv_cache.cache import KVCache, prepare
from mlx_gptoss.model.kv_cache.pool import KVPool
from mlx_gptoss.model.kv_cache.slabs import Slabs, index_places
from mlx_gptoss.model.kv_cache.snapshot import KeysValues
from mlx_gptoss.model.kv_cache.window import append_in_order, make_ring

KEYS_MULTIPLE = 64  # to which the keys of several rows are padded


@dataclass(frozen=True)
class Span:
    """One attention call: packed tokens, and a view of the keys and values they see.

    Without `lengths` the tokens are those of one row, and see keys (1, Hk, S, D) as
    `attention.attend` says. With `lengths` they are one token each of the rows of
    keys (R, Hk, S, D), of which token r sees the first `lengths[r]`.
    """

    tokens: slice
    keys: mx.array
    values: mx.array
    lengths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Spans:
    """The attention calls of some packed tokens.

    If `spread` is given, the tokens are first to be taken at those places, and the
    outputs of all spans at `gather`: slots lie in another order, or have holes.
    """

    tokens: slice
    spans: list[Span]
    spread: mx.array | None = None
    gather: mx.array | None = None


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
        cache.slabs.write(place, cache.slot, cache.offset, k, v)

    def view(self, place: int) -> KeysValues:
        """Return all keys and values (1, Hk, S, D) of a full layer, in order."""
        cache = self._cache
        assert cache.slabs is not None
        return cache.slabs.view(place, cache.slot, cache.slot + 1, self._end)

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
                saved = (make_ring(x, later, offset, window) for x in (k, v))
                cache.saved_states.setdefault(offset, []).append((offset, *saved))
        newest = (make_ring(x, 0, self._end, window) for x in (k, v))
        rings.write(place, slot, 0, *newest)
        seen = window - 1 + self._length
        return k[:, :, -seen:], v[:, :, -seen:]


def save_ring(cache: KVCache, place: int, offset: int) -> None:
    """Save the rings of a window layer if a snapshot was requested at `offset`."""
    if offset in cache.snapshot_offsets:
        saved = cache.copy_ring(place, offset)
        cache.saved_states.setdefault(offset, []).append(saved)


class RowGroup:
    """One new token each of rows that have slots in the same slabs."""

    def __init__(
        self,
        slabs: Slabs,
        tokens: slice,
        slots: Sequence[int],
        positions: Sequence[int],
        lengths: Sequence[int],
    ) -> None:
        self._slabs = slabs
        self._tokens = tokens
        self._slots, self._positions = slots, positions
        self._in_a_row = slots == list(range(slots[0], slots[0] + len(slots)))
        self._one_position = len(set(positions)) == 1
        self._places: tuple[mx.array, ...] | None = None
        row = {slot: n for n, slot in enumerate(slots)}
        self._runs: list[tuple[int, int, int, tuple[int, ...]]] = []
        spread: list[int] = []
        for first, last in split_runs(sorted(slots)):
            rows = [row.get(slot) for slot in range(first, last)]
            held = tuple(1 if n is None else lengths[n] for n in rows)
            longest = -(-max(held) // KEYS_MULTIPLE) * KEYS_MULTIPLE
            keys = min(longest, slabs.capacity) if last - first > 1 else held[0]
            self._runs.append((first, last, keys, held))
            spread += [n or 0 for n in rows]
        self._spread = self._gather = None
        if spread != list(range(len(slots))):
            place = {slot: n for n, slot in enumerate(self._run_slots)}
            self._spread = mx.array(spread)
            self._gather = mx.array([place[slot] for slot in slots])

    @property
    def _run_slots(self) -> list[int]:
        return [slot for first, last, *_ in self._runs for slot in range(first, last)]

    def write(self, place: int, k: mx.array, v: mx.array) -> None:
        """Write the packed keys and values that belong to this group."""
        k, v = k[self._tokens], v[self._tokens]
        if self._in_a_row and self._one_position:
            first, position = self._slots[0], self._positions[0]
            self._slabs.write_rows(place, first, position, k, v)
            return
        if self._places is None:
            self._places = index_places(self._slots, self._positions, k.shape[1])
        self._slabs.scatter(place, self._places, k, v)

    def spans(self, place: int) -> Spans:
        """Return the attention calls of these tokens in one layer."""
        found, at = [], 0
        for first, last, keys, held in self._runs:
            tokens = slice(at, at + last - first)
            view = self._slabs.view(place, first, last, keys)
            found.append(Span(tokens, *view, held if last - first > 1 else None))
            at = tokens.stop
        return Spans(self._tokens, found, self._spread, self._gather)


def split_runs(slots: Sequence[int]) -> list[tuple[int, int]]:
    """Split ascending slots into runs (first, last + 1), at least half of them used."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and 2 * (runs[-1][2] + 1) >= slot + 1 - runs[-1][0]:
            runs[-1][1:] = slot + 1, runs[-1][2] + 1
        else:
            runs.append([slot, slot + 1, 1])
    return [(first, last) for first, last, _ in runs]


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
        for slabs, group in groupby(self._decoding, key=lambda cache: cache.slabs):
            own = list(group)
            part, at = slice(at, at + len(own)), at + len(own)
            offsets = [cache.offset for cache in own]
            slots, lengths = [x.slot for x in own], [n + 1 for n in offsets]
            assert slabs is not None
            self._full.append(RowGroup(slabs, part, slots, offsets, lengths))
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


class PackedRows:
    """The rows of one forward pass, in the order in which they are computed.

    `order` has their numbers as given, `lengths` the tokens of each, `positions` those
    of all tokens.
    """

    def __init__(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        prepare(caches, lengths)
        pools = list(dict.fromkeys(cache.pool for cache in caches))

        def place(row: int) -> tuple[int, bool, int, int]:
            cache = caches[row]
            capacity = cache.slabs.capacity if cache.slabs else 0
            return pools.index(cache.pool), lengths[row] > 1, capacity, cache.slot

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
