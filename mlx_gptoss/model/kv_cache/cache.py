"""The KV cache of all layers, its snapshots and segments.

Dimensions: B batch, Hk key/value heads, L new tokens, S keys attended, D head dim.
"""

from collections.abc import Iterable, Iterator, Sequence

import mlx.core as mx

from mlx_gptoss.model.kv_cache.full import FullCache
from mlx_gptoss.model.kv_cache.snapshot import KeysValues, Segment, Snapshot
from mlx_gptoss.model.kv_cache.window import WindowCache

PADDING_MULTIPLE = 64  # keys to which stacked caches are padded


class KVCache:
    """One FullCache or WindowCache per layer."""

    def __init__(self, layers: Sequence[FullCache | WindowCache]) -> None:
        self.layers = tuple(layers)
        self._snapshot_offsets: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[FullCache | WindowCache]:
        return iter(self.layers)

    @property
    def offset(self) -> int:
        """Number of tokens seen."""
        return self.layers[0].offset

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate after a prefill chunk whose logits are not needed."""
        return [x for layer in self.layers for x in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(x.nbytes for x in self.arrays)

    def snapshot(self) -> Snapshot:
        """Save the window layers as they are now (copied only once they change)."""
        windows = [x.state for x in self.layers if isinstance(x, WindowCache)]
        return Snapshot(self.offset, tuple(windows))

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this cache: restore windows, trim full layers.

        The full layers must still start with the tokens they had at the snapshot.
        """
        assert snapshot.offset <= self.offset, f"{snapshot.offset=} {self.offset=}"
        states = iter(snapshot.windows)
        for layer in self.layers:
            if isinstance(layer, WindowCache):
                layer.state = next(states)
            else:
                layer.trim(layer.offset - snapshot.offset)

    def request_snapshots(self, offsets: Iterable[int]) -> None:
        """Save snapshots as these offsets are passed; replaces earlier requests."""
        self._snapshot_offsets = frozenset(offsets)
        for layer in self._windows:
            layer.snapshot_offsets = self._snapshot_offsets

    def take_snapshots(self) -> list[Snapshot]:
        """Return the requested snapshots saved since the last call, in order."""
        passed = sorted(x for x in self._snapshot_offsets if x <= self.offset)
        if not passed:
            return []
        self.request_snapshots(self._snapshot_offsets.difference(passed))
        return [
            Snapshot(offset, tuple(x.saved_states.pop(offset) for x in self._windows))
            for offset in passed
        ]

    def copy_segment(self, start: int, end: int) -> Segment:
        """Copy the keys and values of tokens `start` to `end` from the full layers."""
        return Segment(tuple(layer.copy_segment(start, end) for layer in self._full))

    def rebuild(
        self, length: int, segments: Sequence[Segment], snapshot: Snapshot | None = None
    ) -> None:
        """Keep the first `length` tokens, append `segments`, restore the windows.

        `snapshot` is the one at the new end, or None if the windows are there already.
        Peak memory: the result and a second copy of one layer.
        """
        for n, layer in enumerate(self._full):
            layer.rebuild(length, [part.layers[n] for part in segments])
            mx.eval(layer.arrays)  # one layer at a time, so that only one exists twice
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
        """Return whether the last `count` tokens can be dropped without a snapshot."""
        return all(layer.can_trim(count) for layer in self.layers)

    def trim(self, count: int) -> None:
        """Drop the last `count` tokens; requires `can_trim(count)`."""
        for layer in self.layers:
            layer.trim(count)


def stack_caches(caches: Sequence[FullCache | WindowCache]) -> KeysValues:
    """Copy caches of one layer side by side, padded to one length: (B, Hk, S, D).

    S is rounded up, so that most steps reuse the buffers of the step before.
    """
    pairs = [cache.buffers for cache in caches]
    longest = max(cache.length for cache in caches)
    room = -(-longest // PADDING_MULTIPLE) * PADDING_MULTIPLE
    keys, values = (
        mx.concatenate([fit_length(x, room) for x in side])
        for side in zip(*pairs, strict=True)
    )
    return keys, values


def fit_length(x: mx.array, room: int) -> mx.array:
    """Cut (B, Hk, S, D) to `room` keys, or pad it with zeros."""
    missing = room - x.shape[2]
    if missing > 0:
        return mx.pad(x, [(0, 0), (0, 0), (0, missing), (0, 0)])
    return x[:, :, :room] if missing else x
