"""The KV cache of one sequence: a row of a pool, its snapshots and segments.

Dimensions: Hk key/value heads, D head dim.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_gptoss.model.kv_cache.slabs import Move, Slabs
from mlx_gptoss.model.kv_cache.snapshot import LayerState, Segment, Snapshot
from mlx_gptoss.model.kv_sizes import slot_capacity

if TYPE_CHECKING:
    from mlx_gptoss.model.kv_cache.pool import KVPool


class KVCache:
    """One row of a pool. It takes its slots when tokens come, and `free` returns them.

    `slabs` and `slot` say where its full layers are; `ring` is its slot of
    `pool.rings`. The forward pass writes there and then moves `offset`.
    """

    def __init__(self, pool: "KVPool") -> None:
        self.pool = pool
        self.offset = 0  # tokens seen
        self.slabs: Slabs | None = None
        self.slot = 0
        self.ring: int | None = None
        self.snapshot_offsets: frozenset[int] = frozenset()
        # Rings of each window layer, saved as the requested offsets were passed.
        self.saved_states: dict[int, list[LayerState]] = {}

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate after a prefill chunk whose logits are not needed.

        The slabs of other rows are among them. Keep no reference: a slab that is
        referred to is copied by the next write.
        """
        slabs = [] if self.slabs is None else self.slabs.arrays
        rings = [] if self.ring is None else self.pool.rings.arrays
        return [*slabs, *rings, *self._saved_arrays]

    @property
    def _saved_arrays(self) -> list[mx.array]:
        states = [state for layers in self.saved_states.values() for state in layers]
        return [x for state in states for x in state[1:] if x is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of its slots and of snapshots that were not taken yet."""
        slot = 0 if self.slabs is None else self.slabs.slot_bytes
        ring = 0 if self.ring is None else self.pool.rings.slot_bytes
        return slot + ring + sum(x.nbytes for x in self._saved_arrays)

    def reserve(self, tokens: int) -> None:
        """Take slots for `tokens` tokens; full layers may move to a larger slot."""
        reserve([self], [tokens])

    def compact(self, slabs: Slabs) -> None:
        """Move to the first free slot of the same slabs: of full layers or rings."""
        length, to = min(self.offset, slabs.capacity), slabs.take(self)
        if slabs is self.slabs:
            slabs.hand_over([Move(self.slot, to, length)], slabs)
            self.slot = to
        else:
            assert self.ring is not None
            slabs.hand_over([Move(self.ring, to, length)], slabs)
            self.ring = to

    def free(self) -> None:
        """Return the slots to the pool; the cache is empty then, and can be reused."""
        if self.slabs is not None:
            self.slabs.free(self.slot, self.slabs.capacity)
        if self.ring is not None:
            self.pool.rings.free(self.ring, self.pool.rings.capacity)
        self.slabs = self.ring = None
        self.offset = 0
        self.snapshot_offsets, self.saved_states = frozenset(), {}

    def snapshot(self) -> Snapshot:
        """Copy the window layers as they are now."""
        rings = self.pool.rings
        if self.ring is None or not self.offset:
            empty: LayerState = (self.offset, None, None)
            return Snapshot(self.offset, (empty,) * rings.layers)
        states = [self.copy_ring(layer, self.offset) for layer in range(rings.layers)]
        found = Snapshot(self.offset, tuple(states))
        mx.eval(found.arrays)
        return found

    def copy_ring(self, layer: int, offset: int) -> LayerState:
        """Copy the rings of one window layer, lazily."""
        assert self.ring is not None
        rings = self.pool.rings
        return offset, *rings.copy(layer, self.ring, 0, rings.capacity)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this cache: restore windows, trim full layers.

        The full layers must still start with the tokens they had at the snapshot.
        """
        assert snapshot.offset <= self.offset, f"{snapshot.offset=} {self.offset=}"
        self._restore_rings(snapshot)

    def _restore_rings(self, snapshot: Snapshot) -> None:
        self.offset = snapshot.offset
        for layer, (_, keys, values) in enumerate(snapshot.windows):
            if keys is not None and values is not None:
                assert self.ring is not None
                self.pool.rings.write(layer, self.ring, 0, keys, values)

    def request_snapshots(self, offsets: Iterable[int]) -> None:
        """Save snapshots as these offsets are passed; replaces earlier requests."""
        self.snapshot_offsets = frozenset(offsets)

    def take_snapshots(self) -> list[Snapshot]:
        """Return the requested snapshots saved since the last call, in order."""
        passed = sorted(x for x in self.snapshot_offsets if x <= self.offset)
        if not passed:
            return []
        self.request_snapshots(self.snapshot_offsets.difference(passed))
        mx.eval(self._saved_arrays)
        states = [self.saved_states.pop(offset) for offset in passed]
        return [
            Snapshot(offset, tuple(layers))
            for offset, layers in zip(passed, states, strict=True)
        ]

    def copy_segment(self, start: int, end: int) -> Segment:
        """Copy the keys and values of tokens `start` to `end` from the full layers."""
        assert self.slabs is not None and end <= self.offset, f"{end=} {self.offset=}"
        layers = range(self.slabs.layers)
        pairs = [self.slabs.copy(layer, self.slot, start, end) for layer in layers]
        found = Segment(tuple(pairs))
        mx.eval(found.arrays)
        return found

    def rebuild(
        self, length: int, segments: Sequence[Segment], snapshot: Snapshot | None = None
    ) -> None:
        """Keep the first `length` tokens, append `segments`, restore the windows.

        `snapshot` is the one at the new end, or None if the windows are there already.
        Peak memory: the result and a second copy of one layer.
        """
        assert length <= self.offset, f"{length=} {self.offset=}"
        end = length + sum(segment.length for segment in segments)
        if snapshot is not None:
            end = snapshot.offset
        self.offset = length
        self.reserve(end)
        assert self.slabs is not None
        if 2 * slot_capacity(end) <= self.slabs.capacity:
            move([self], self.slabs, self.pool.slabs(slot_capacity(end)))
        for layer in range(self.slabs.layers):
            at = length
            for k, v in (segment.layers[layer] for segment in segments):
                self.slabs.write(layer, self.slot, at, k, v)
                at += k.shape[2]
        self.offset = end
        if snapshot is not None:
            self._restore_rings(snapshot)
        mx.eval(self.arrays)

    def can_trim(self, count: int) -> bool:
        """Return whether the last `count` tokens can be dropped without a snapshot."""
        rings = self.pool.rings
        complete = count == 0 or not rings.layers or self.offset <= rings.capacity
        return 0 <= count <= self.offset and complete

    def trim(self, count: int) -> None:
        """Drop the last `count` tokens; requires `can_trim(count)`."""
        assert self.can_trim(count), f"{count=} {self.offset=}"
        self.offset -= count


def prepare(caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
    """Make caches ready for a forward pass that writes `lengths` more tokens."""
    for cache in caches:
        if cache.saved_states:  # lazy copies refer to slabs that are about to change
            mx.eval(cache.arrays)
    pairs = zip(caches, lengths, strict=True)
    reserve(caches, [cache.offset + length for cache, length in pairs])


def reserve(caches: Sequence[KVCache], tokens: Sequence[int]) -> None:
    """Take slots for so many tokens in each cache; those that grow move together."""
    growing: dict[tuple[Slabs, int], list[KVCache]] = {}
    for cache, count in zip(caches, tokens, strict=True):
        if cache.ring is None:
            cache.ring = cache.pool.rings.take(cache)
        if cache.slabs is None:
            cache.slabs = cache.pool.slabs(slot_capacity(count))
            cache.slot = cache.slabs.take(cache)
        elif count > cache.slabs.capacity:
            growing.setdefault((cache.slabs, slot_capacity(count)), []).append(cache)
    for (source, capacity), group in growing.items():
        move(group, source, group[0].pool.slabs(capacity))


def move(caches: Sequence[KVCache], source: Slabs, target: Slabs) -> None:
    """Copy the full layers of caches, which are in `source`, to slots of `target`.

    Peak memory: what `target` grows by, and one layer of what is copied.
    """
    moves = []
    for cache in sorted(caches, key=lambda cache: cache.slot):
        to = target.take(cache)
        moves.append(Move(cache.slot, to, cache.offset))
        cache.slabs, cache.slot = target, to
    source.hand_over(moves, target)
