"""Keys and values of the tokens so far; knows nothing of attention or weights.

`FullCache` keeps every key and can be trimmed. `WindowCache` keeps the last `window`
keys; what left it is gone, but its state can be kept and put back. `Cache` holds one or
the other for each layer: take a `snapshot()` at a point worth coming back to, or
`mark` such points before a chunk passes them, and `restore()` goes there without
reading the prompt again. What the full layers hold of a stretch of tokens can be taken
out as `Rows` and put into another cache: `rebuild` goes to any point that way.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

from collections.abc import Iterable, Iterator, Sequence

import mlx.core as mx

from mlx_gptoss.model.kv_cache.full import GROWTH, FullCache
from mlx_gptoss.model.kv_cache.snapshot import KeysValues, LayerState, Segment, Snapshot
from mlx_gptoss.model.kv_cache.window import WindowCache

PADDING_MULTIPLE = 64  # keys

__all__ = [
    "GROWTH",
    "FullCache",
    "KVCache",
    "KeysValues",
    "LayerState",
    "Segment",
    "Snapshot",
    "WindowCache",
    "stack_caches",
]


class KVCache:
    """One FullCache or WindowCache a layer."""

    def __init__(self, layers: Sequence[FullCache | WindowCache]) -> None:
        self.layers = tuple(layers)
        self._snapshot_offsets: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[FullCache | WindowCache]:
        return iter(self.layers)

    @property
    def offset(self) -> int:
        """How many tokens it has seen."""
        return self.layers[0].offset

    @property
    def arrays(self) -> list[mx.array]:
        """What to evaluate after prefill, whose logits nobody reads."""
        return [x for layer in self.layers for x in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(x.nbytes for x in self.arrays)

    def snapshot(self) -> Snapshot:
        """Keep the window layers as they are now (no copy until they change)."""
        windows = [x.state for x in self.layers if isinstance(x, WindowCache)]
        return Snapshot(self.offset, tuple(windows))

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this cache: windows put back, full layers trimmed.

        The full layers must still begin with the tokens they had at the snapshot.
        """
        assert snapshot.offset <= self.offset, f"{snapshot.offset=} {self.offset=}"
        states = iter(snapshot.windows)
        for layer in self.layers:
            if isinstance(layer, WindowCache):
                layer.state = next(states)
            else:
                layer.trim(layer.offset - snapshot.offset)

    def request_snapshots(self, offsets: Iterable[int]) -> None:
        """Take snapshots when these offsets are passed, and no others any more."""
        self._snapshot_offsets = frozenset(offsets)
        for layer in self._windows:
            layer.snapshot_offsets = self._snapshot_offsets

    def take_snapshots(self) -> list[Snapshot]:
        """Hand over the snapshots of marks that were passed since, in order."""
        passed = sorted(mark for mark in self._snapshot_offsets if mark <= self.offset)
        if not passed:
            return []
        self.request_snapshots(self._snapshot_offsets.difference(passed))
        return [
            Snapshot(offset, tuple(x.states.pop(offset) for x in self._windows))
            for offset in passed
        ]

    def copy_segment(self, start: int, end: int) -> Segment:
        """Copy what the full layers hold of tokens `start` to `end`."""
        return Segment(tuple(layer.copy_segment(start, end) for layer in self._full))

    def rebuild(
        self, length: int, segments: Sequence[Segment], snapshot: Snapshot | None = None
    ) -> None:
        """Keep the first `length` tokens, append `rows`, put back the windows there.

        `snapshot` is that of the end, or None if the cache stands there already.
        Peak: the rows of one layer more than what is kept.
        """
        for n, layer in enumerate(self._full):
            layer.rebuild(length, [part.layers[n] for part in segments])
            mx.eval(layer.arrays)  # layer by layer, so that one is held twice
        if snapshot is not None:
            for layer, state in zip(self._windows, snapshot.windows, strict=True):
                layer.state = state

    @property
    def _windows(self) -> list[WindowCache]:
        return [x for x in self.layers if isinstance(x, WindowCache)]

    @property
    def _full(self) -> list[FullCache]:
        return [x for x in self.layers if isinstance(x, FullCache)]

    def can_trim(self, count: int) -> bool:
        """Say whether the last `count` tokens can be forgotten without a snapshot."""
        return all(layer.can_trim(count) for layer in self.layers)

    def trim(self, count: int) -> None:
        """Forget the last `count` tokens, where `can_trim` says so."""
        for layer in self.layers:
            layer.trim(count)


def stack_caches(caches: Sequence[FullCache | WindowCache]) -> KeysValues:
    """Copy what caches of one layer hold side by side: (B, Hk, S, D), S >= most held.

    S is rounded up, so that most steps find the buffers of those before.
    """
    pairs = [cache.buffers for cache in caches]
    held = max(cache.length for cache in caches)
    room = -(-held // PADDING_MULTIPLE) * PADDING_MULTIPLE
    keys, values = (
        mx.concatenate([fit_length(x, room) for x in side])
        for side in zip(*pairs, strict=True)
    )
    return keys, values


def fit_length(x: mx.array, room: int) -> mx.array:
    """Cut (B, Hk, S, D) to `room` keys, or add zeros up to that."""
    missing = room - x.shape[2]
    if missing > 0:
        return mx.pad(x, [(0, 0), (0, 0), (0, missing), (0, 0)])
    return x[:, :, :room] if missing else x
