"""The KV cache of one sequence: a row of a pool, its snapshots and segments.

Dimensions: Hk key/value heads, D head dim.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_gptoss.model.kv_cache.base import Base
from mlx_gptoss.model.kv_cache.slabs import Move, Slabs
from mlx_gptoss.model.kv_cache.snapshot import LayerState, Segment, Snapshot
from mlx_gptoss.model.kv_sizes import slot_capacity

if TYPE_CHECKING:
    from mlx_gptoss.model.kv_cache.pool import KVPool


class KVCache:
    """One row of a pool. It takes its slots when tokens come, and `free` returns them.

    `slabs` and `slot` say where its full layers are; `ring` is its slot of
    `pool.rings`. The forward pass writes there and then moves `offset`. The first
    tokens may be in a `base`, which other rows read too; the slot begins after them.
    """

    def __init__(self, pool: "KVPool") -> None:
        self.pool = pool
        self.offset = 0  # tokens seen
        self.slabs: Slabs | None = None
        self.slot = 0
        self.base: Base | None = None
        self.shared = 0  # tokens, the first, that are in the base and not in the slot
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
        slabs += [] if self.base is None else self.base.slabs.arrays
        rings = [] if self.ring is None else self.pool.rings.arrays
        return [*slabs, *rings, *self._saved_arrays]

    @property
    def _saved_arrays(self) -> list[mx.array]:
        states = [state for layers in self.saved_states.values() for state in layers]
        return [x for state in states for x in state[1:] if x is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of its slots, its part of a base, and snapshots not taken yet."""
        slot = 0 if self.slabs is None else self.slabs.slot_bytes
        if self.base is not None:
            slot += self.base.slabs.slot_bytes // self.base.users
        ring = 0 if self.ring is None else self.pool.rings.slot_bytes
        return slot + ring + sum(x.nbytes for x in self._saved_arrays)

    def reserve(self, tokens: int) -> None:
        """Take slots for `tokens` tokens; full layers may move to a larger slot."""
        reserve([self], [tokens])

    def compact(self, slabs: Slabs) -> None:
        """Move to the first free slot of the same slabs: of full layers or rings."""
        to = slabs.take(self)
        if slabs is self.slabs:
            slabs.hand_over([Move(self.slot, to, 0, self._own)], slabs)
            self.slot = to
        else:
            assert self.ring is not None
            end = min(self.offset, slabs.capacity)
            slabs.hand_over([Move(self.ring, to, 0, end)], slabs)
            self.ring = to

    def free(self) -> None:
        """Return the slots to the pool; the cache is empty then, and can be reused."""
        if self.slabs is not None:
            self.slabs.free(self.slot, self.slabs.capacity)
        if self.ring is not None:
            self.pool.rings.free(self.ring, self.pool.rings.capacity)
        self.slabs = self.ring = None
        self._rewind(0)
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
        self._rewind(snapshot.offset)
        self._restore_rings(snapshot)

    def _restore_rings(self, snapshot: Snapshot) -> None:
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
        assert start <= end <= self.offset, f"{start=} {end=} {self.offset=}"
        shared, parts = self.shared, []
        if self.base is not None and start < shared:
            until = min(end, shared)
            parts.append(self.base.slabs.segment(self.base.slot, start, until))
        if self.slabs is not None and end > shared:
            own = max(0, start - shared), end - shared
            parts.append(self.slabs.segment(self.slot, *own))
        found = parts[0] if len(parts) == 1 else Segment.concatenate(parts)
        mx.eval(found.arrays)
        return found

    def rebuild(
        self, length: int, segments: Sequence[Segment], snapshot: Snapshot | None = None
    ) -> None:
        """Keep the first `length` tokens, append `segments`, restore the windows.

        `snapshot` is the one at the new end, or None if the windows are there already.
        Peak memory: the result and a second copy of one layer.
        """
        self._rewind(length)
        end = length + sum(segment.length for segment in segments)
        if snapshot is not None:
            end = snapshot.offset
        self.reserve(end)
        assert self.slabs is not None
        capacity = slot_capacity(end - self.shared)
        if 2 * capacity <= self.slabs.capacity:
            move([self], self.slabs, self.pool.slabs(capacity))
        for layer in range(self.slabs.layers):
            at = self._own
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
        self._rewind(self.offset - count)

    @property
    def _own(self) -> int:
        """Number of tokens in its own slot."""
        return self.offset - self.shared

    def _rewind(self, offset: int) -> None:
        """Forget the full layers' tokens from `offset` on."""
        assert 0 <= offset <= self.offset, f"{offset=} {self.offset=}"
        self.offset, self.shared = offset, min(offset, self.shared)
        if self.base is not None and not self.shared:
            self.base.leave()
            self.base = None

    def shareable(self, length: int) -> int:
        """Return how many of its first `length` tokens another row can share."""
        return length if self.base is None else min(length, self.shared)

    def share(self, source: "KVCache", length: int) -> int:
        """Begin with the first tokens of another row, which stay where they are.

        Returns how many, at most `length`. The rings are not set: `rebuild` next, with
        what is missing up to a snapshot.
        """
        assert not self.offset and source.pool is self.pool
        length = source.shareable(length)
        base = source.base or source.make_base(length)
        self.base, base.users = base, base.users + 1
        self.offset = self.shared = length
        return length

    def make_base(self, length: int) -> Base:
        """Make a base of the first `length` tokens.

        Its slot becomes that of the base, and what comes later moves to a new one. If
        the slot is much larger than the base, the base is copied and it stays as it is.
        """
        source = self.slabs
        assert source is not None and self.base is None and length <= self.offset
        layers = range(source.layers)
        if 2 * slot_capacity(length) <= source.capacity:
            base = Base(self.pool.slabs(slot_capacity(length)), length)
            base.slot = base.slabs.take(base)
            copied = [Move(self.slot, base.slot, 0, length)]
            for layer in layers:
                source.copy_layer(layer, copied, base.slabs)
            return base
        base = Base(source, length)
        base.slot, base.users = self.slot, 1
        source.pass_on(base.slot, base)
        target = self.pool.slabs(slot_capacity(self.offset - length))
        self.slabs, self.slot = target, target.take(self)
        copied = [Move(base.slot, self.slot, length, self.offset)]
        for layer in layers:
            source.copy_layer(layer, copied, target)
        self.base, self.shared = base, length
        return base


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
        capacity = slot_capacity(count - cache.shared)
        if cache.slabs is None:
            cache.slabs = cache.pool.slabs(capacity)
            cache.slot = cache.slabs.take(cache)
        elif capacity > cache.slabs.capacity:
            growing.setdefault((cache.slabs, capacity), []).append(cache)
    for (source, capacity), group in growing.items():
        move(group, source, group[0].pool.slabs(capacity))


def move(caches: Sequence[KVCache], source: Slabs, target: Slabs) -> None:
    """Copy the full layers of caches, which are in `source`, to slots of `target`.

    Peak memory: what `target` grows by, and one layer of what is copied.
    """
    moves = []
    for cache in sorted(caches, key=lambda cache: cache.slot):
        to = target.take(cache)
        moves.append(Move(cache.slot, to, 0, cache.offset - cache.shared))
        cache.slabs, cache.slot = target, to
    source.hand_over(moves, target)
