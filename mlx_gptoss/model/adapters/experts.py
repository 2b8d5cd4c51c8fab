"""Updates of experts, for the ways in which their rows are computed.

A pair is a token and one of its experts. Pairs of one adapter take the matrices of
their expert; pairs of several those at `slot * E + expert`.

Dimensions as in `model.experts`: N tokens, T experts per token, E experts, R pairs.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.adapters.adapter import LowRank
from mlx_gptoss.model.adapters.dropout import Dropout
from mlx_gptoss.model.adapters.rows import RowSlots, add_gathered, add_masked
from mlx_gptoss.model.adapters.stack import SlotUpdates

PREFIX = "mlp.experts."


class ExpertUpdates:
    """The updates of one layer's experts for N tokens."""

    def __init__(
        self,
        modules: Mapping[str, SlotUpdates],
        slots: RowSlots,
        dropout: Dropout | None = None,
    ) -> None:
        self._modules = modules
        self._slots = slots
        self._dropout = dropout

    def pairs(self, expert_indices: mx.array) -> "PairUpdates":
        """Return those of every token's experts (N, T)."""
        one = self._slots.one is not None
        shape = expert_indices.shape
        slots = None if one else mx.broadcast_to(self._slots.array[:, None], shape)
        return PairUpdates(
            self._modules, self._slots, expert_indices, slots, dropout=self._dropout
        )

    def blocks(self, experts: mx.array) -> "PairUpdates":
        """Return those of blocks of tokens, all of one slot, by sorted experts (B,)."""
        assert self._slots.one is not None, "only rows of one slot are put into blocks"
        return PairUpdates(
            self._modules,
            self._slots,
            experts,
            None,
            dropout=self._dropout,
            sorted_by_expert=True,
        )

    def of(self, tokens: np.ndarray) -> "ExpertUpdates":
        """Return those for some of the tokens, given by number, which may repeat."""
        return ExpertUpdates(self._modules, self._slots.select(tokens))

    def one_expert(self, expert: int, tokens: np.ndarray) -> "OneExpertUpdates":
        """Return those of one expert for some of the tokens, given by number (R,)."""
        return OneExpertUpdates(self._modules, expert, self._slots.select(tokens))


class PairUpdates:
    """The updates of pairs, or of blocks of pairs, computed by gathered products.

    `experts` and `slots` have one shape; `slots` is None if all pairs have one slot.
    The gradient of pairs that are sorted takes no memory for each of them.
    """

    def __init__(
        self,
        modules: Mapping[str, SlotUpdates],
        used: RowSlots,
        experts: mx.array,
        slots: mx.array | None,
        *,
        dropout: Dropout | None = None,
        sorted_by_expert: bool = False,
    ) -> None:
        self._modules = modules
        self._used = used
        self._experts = experts
        self._slots = slots
        self._dropout = dropout
        self._sorted = sorted_by_expert

    def part(self, number: int, which: Any) -> "PairUpdates":
        """Return those of a part of the pairs, which drops values of its own."""
        dropout = self._dropout and self._dropout.of(number)
        return self._select(lambda x: x[which], dropout, sorted_by_expert=self._sorted)

    def take(self, order: mx.array) -> "PairUpdates":
        """Return those of the flattened pairs, in an order (R,) that sorts them."""
        return self._select(
            lambda x: x.flatten()[order], self._dropout, sorted_by_expert=True
        )

    def _select(
        self, select: Any, dropout: Dropout | None, *, sorted_by_expert: bool
    ) -> "PairUpdates":
        return PairUpdates(
            self._modules,
            self._used,
            select(self._experts),
            None if self._slots is None else select(self._slots),
            dropout=dropout,
            sorted_by_expert=sorted_by_expert,
        )

    def add(self, name: str, x: mx.array, y: mx.array) -> mx.array:
        """Add to the products y (..., n, out) of x (..., n, in) their updates."""
        update = self._modules.get(PREFIX + name)
        if update is None:
            return y
        if self._dropout is not None:
            x = self._dropout.apply(PREFIX + name, x)
        found = [slot for slot in self._used.present if update.parts[slot] is not None]
        if len(found) > 1:
            assert update.stacked is not None
            return add_gathered(update.stacked, self._places(update), x, y)
        for slot in found:
            part = update.parts[slot]
            assert part is not None
            y = add_gathered(
                part,
                self._experts,
                x,
                y,
                self._mask(slot),
                sorted_by_expert=self._sorted,
            )
        return y

    def _places(self, update: SlotUpdates) -> mx.array:
        """Return the places of the pairs' matrices in the stacked updates."""
        assert self._slots is not None
        E = len(update.expert_places) // len(update.parts)
        return update.expert_places[self._slots * E + self._experts]

    def _mask(self, slot: int) -> mx.array | None:
        """Return (..., 1, 1), whether a pair has this slot; None if all have."""
        return None if self._slots is None else (self._slots == slot)[..., None, None]


class OneExpertUpdates:
    """The updates of one expert for R rows."""

    def __init__(
        self, modules: Mapping[str, SlotUpdates], expert: int, slots: RowSlots
    ) -> None:
        self._modules = modules
        self._one = slice(expert, expert + 1)  # a view; an index would copy
        self._slots = slots

    def add(self, name: str, x: mx.array, y: mx.array) -> mx.array:
        """Add to the products y (R, out) of x (R, in) their updates."""
        update = self._modules.get(PREFIX + name)
        if update is None:
            return y
        found = [
            (slot, LowRank(part.a[self._one].squeeze(0), part.b[self._one].squeeze(0)))
            for slot in self._slots.present
            if (part := update.parts[slot]) is not None
        ]
        return add_masked(found, self._slots, x, y)
