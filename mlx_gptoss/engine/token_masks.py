"""The token masks of a batch: rows of a table, of arrays from the host, or none.

Where every row knows its legal tokens on the host, the masks are uploaded, and those of
free text are kept: they stay the same for hundreds of steps. A row that follows an
automaton through tokens not computed yet is looked up on the device, and so are the
others beside it. Dimensions: B rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.mask_table import MaskTable
from mlx_gptoss.engine.rows import Row, gather_rows
from mlx_gptoss.engine.token_table import AutomatonMask, TokenMask

KEPT_MASKS = 4  # of free text, for the compositions of the last batches
LEGAL_FLOOR = -1e30  # so that a legal token is sampled before any illegal one


class BatchMask(NamedTuple):
    """The legal tokens of a batch (B or 1, V) bool, and how to follow them.

    `floor` is the least logit of a legal token, () or (B, 1). `states` (B,) and
    `choices` (B, C) are those of the table; None if no row follows an automaton.
    """

    legal: mx.array
    floor: mx.array
    table: MaskTable | None = None
    states: mx.array | None = None
    choices: mx.array | None = None

    def apply(self, logits: mx.array) -> mx.array:
        """Return the logits (B, V), -inf where a token is not legal."""
        never = mx.array(-mx.inf, logits.dtype)
        return mx.where(self.legal, mx.maximum(logits, self.floor), never)

    def advance(self, tokens: mx.array) -> mx.array | None:
        """Return the states (B,) after sampled tokens (B,); None if none follows."""
        if self.table is None or self.states is None or self.choices is None:
            return None
        return self.table.next_states(self.states, self.choices, tokens)


class TokenMasks:
    """Makes the masks of batches. Belongs to one thread, as its device arrays do."""

    def __init__(self) -> None:
        self._table = MaskTable()
        self._kept: dict[tuple[object, ...], mx.array] = {}

    def join(self, masks: Sequence[TokenMask], size: int) -> BatchMask | None:
        """Join the masks of the rows for a vocabulary of `size`; None if all are free.

        A row without a mask is left as it is, down to its infinities.
        """
        if all(mask is None for mask in masks):
            return None
        floor = _floor(masks)
        if not any(isinstance(mask, AutomatonMask) and mask.follow for mask in masks):
            return BatchMask(self._host_masks(masks, size), floor)
        states = self._states(masks)
        choices = self._table.choices(states)
        legal = self._table.legal(choices)
        given = [isinstance(mask, np.ndarray) for mask in masks]
        if any(given):
            host = mx.array(np.stack([_host_mask(mask, size) for mask in masks]))
            legal = mx.where(mx.array(given)[:, None], host, legal)
        return BatchMask(legal, floor, self._table, states, choices)

    def _host_masks(self, masks: Sequence[TokenMask], size: int) -> mx.array:
        """Upload the masks; keep them if all are of free text or none."""
        keys = [_key(mask) for mask in masks]
        if None in keys:
            return mx.array(np.stack([_host_mask(mask, size) for mask in masks]))
        key = (size, *(keys if len(set(keys)) > 1 else keys[:1]))
        found = self._kept.pop(key, None)
        if found is None:
            rows = masks if len(set(keys)) > 1 else masks[:1]
            found = mx.array(np.stack([_host_mask(mask, size) for mask in rows]))
        self._kept[key] = found
        while len(self._kept) > KEPT_MASKS:
            del self._kept[next(iter(self._kept))]
        return found

    def _states(self, masks: Sequence[TokenMask]) -> mx.array:
        """Return the state (B,) of each row in the joined table."""
        table = self._table
        table.join(mask.table for mask in masks if isinstance(mask, AutomatonMask))
        known, bases, rows = [], [], []
        for mask in masks:
            automatic = isinstance(mask, AutomatonMask)
            bases.append(table.base(mask.table) if automatic else 0)
            state = mask.state if automatic else 0
            if isinstance(state, int):
                known.append(state)
                rows.append(None)
            else:
                rows.append(state)
        if len(known) == len(masks):
            return mx.array(np.add(known, bases).astype(np.int32))
        from_host, count = mx.array(known, mx.int32), iter(range(len(known)))
        states = [Row(from_host, next(count)) if r is None else r for r in rows]
        return gather_rows(states) + mx.array(bases, mx.int32)


def _key(mask: TokenMask) -> object:
    """Return what names a mask that does not change, or None."""
    if mask is None:
        return ()
    if isinstance(mask, AutomatonMask) and isinstance(mask.state, int):
        return mask.table.text, mask.table.pattern(mask.state)
    return None


def _host_mask(mask: TokenMask, size: int) -> np.ndarray:
    """Return the mask (V,) bool of a row that is known on the host."""
    if isinstance(mask, np.ndarray):
        return mask
    if isinstance(mask, AutomatonMask) and isinstance(mask.state, int):
        return mask.table.pattern(mask.state).legal(mask.table.text.mask)
    return np.ones(size, bool)


def _floor(masks: Sequence[TokenMask]) -> mx.array:
    """Return the least logit of a legal token: none where a row has no mask."""
    if all(mask is not None for mask in masks):
        return mx.array(LEGAL_FLOOR, mx.float32)
    free = [-mx.inf if mask is None else LEGAL_FLOOR for mask in masks]
    return mx.array(free, mx.float32)[:, None]
