"""A pool of KV caches: all rows of a batch in common slabs.

    pool = KVPool(sliding=[True, False], window=128)
    caches = [pool.make_cache() for _ in range(16)]

One sequence is one row, and a row is one slot: of the slabs of its capacity in the full
layers, and of the rings in the window layers. So a decode step writes the new keys of
all rows with one operation a layer, and attends to rows of one capacity in place.
A row that joins or leaves moves no other row's keys; slabs grow in steps.
"""

from collections.abc import Sequence

from mlx_gptoss.model.kv_cache.cache import KVCache
from mlx_gptoss.model.kv_cache.slabs import Slabs


class KVPool:
    """The slabs of all layers. `sliding` says which layers are window layers."""

    def __init__(self, sliding: Sequence[bool], window: int) -> None:
        self.sliding = tuple(sliding)
        # The number of a layer among those of its kind.
        self.places = [
            sum(x == kind for x in self.sliding[:layer])
            for layer, kind in enumerate(self.sliding)
        ]
        self.rings = Slabs(sum(self.sliding), window)
        self._slabs: dict[int, Slabs] = {}

    def make_cache(self) -> KVCache:
        """Return an empty cache; it takes slots when it is first written."""
        return KVCache(self)

    def slabs(self, capacity: int) -> Slabs:
        """Return the slots of the full layers with this capacity (tokens)."""
        if capacity not in self._slabs:
            full = len(self.sliding) - self.rings.layers
            self._slabs[capacity] = Slabs(full, capacity)
        return self._slabs[capacity]

    @property
    def nbytes(self) -> int:
        """Bytes allocated, spare slots included."""
        return sum(x.nbytes for x in (self.rings, *self._slabs.values()))

    def compact(self) -> None:
        """Release spare slots: move the last rows into the holes between others."""
        for slabs in (self.rings, *self._slabs.values()):
            while slabs.has_holes:
                owners = [owner for owner in slabs.owners if owner is not None]
                owners[-1].compact(slabs)
            slabs.trim()
