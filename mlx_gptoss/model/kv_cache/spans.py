"""Views of slabs that the rows of one forward pass attend to, by runs of slots.

Dimensions: N packed tokens, R rows, Hk key/value heads, S keys, P keys of a base,
D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_gptoss.model.kv_cache.base import Base
from mlx_gptoss.model.kv_cache.slabs import Slabs, index_places
from mlx_gptoss.model.kv_cache.snapshot import KeysValues

KEYS_MULTIPLE = 64  # to which the keys of several rows are padded


@dataclass(frozen=True)
class Span:
    """One attention call: packed tokens, and a view of the keys and values they see.

    Without `lengths` the tokens are those of one row, and see keys (1, Hk, S, D) as
    `attention.attend` says. With `lengths` they are one token each of the rows of
    keys (R, Hk, S, D), of which token r sees the first `lengths[r]`, after all those of
    `base` (1, Hk, P, D), if they share one.
    """

    tokens: slice
    keys: mx.array
    values: mx.array
    lengths: tuple[int, ...] | None = None
    base: KeysValues | None = None


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


class RowGroup:
    """One new token each of rows that have slots in the same slabs, and one base.

    `positions` of the tokens and `lengths`, the keys they see, count from the beginning
    of the slots; `shared` tokens of the base come before.
    """

    def __init__(
        self,
        slabs: Slabs,
        tokens: slice,
        slots: Sequence[int],
        positions: Sequence[int],
        lengths: Sequence[int],
        *,
        base: Base | None = None,
        shared: int = 0,
    ) -> None:
        self._slabs = slabs
        self._base, self._shared = base, shared
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
            base = None if self._base is None else self._base.view(place, self._shared)
            alone = last - first == 1 and base is None
            found.append(Span(tokens, *view, None if alone else held, base))
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
