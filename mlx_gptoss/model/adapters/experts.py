"""Updates of experts, for the ways in which their rows are computed.

A pair is a token and one of its experts. Pairs of one adapter take the matrices of
their expert; pairs of several those at `slot * E + expert`.

Dimensions as in `model.experts`: N tokens, T experts per token, E experts, R pairs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.adapters.adapter import LowRank
from mlx_gptoss.model.adapters.rows import RowSlots, add_gathered, add_masked
from mlx_gptoss.model.adapters.stack import SlotUpdates

PREFIX = "mlp.experts."

Evaluate = Callable[[mx.array], np.ndarray]


class ExpertUpdates:
    """The updates of one layer's experts for N tokens.

    `evaluate` returns the values of expert indices, perhaps known beforehand.
    """

    def __init__(
        self,
        modules: Mapping[str, SlotUpdates],
        slots: RowSlots,
        evaluate: Evaluate = np.array,
    ) -> None:
        self._modules = modules
        self._slots = slots
        self.evaluate = evaluate

    def pairs(self, expert_indices: mx.array) -> "PairUpdates":
        """Return those of every token's experts (N, T)."""
        one = self._slots.one is not None
        shape = expert_indices.shape
        slots = None if one else mx.broadcast_to(self._slots.array[:, None], shape)
        return PairUpdates(self._modules, self._slots, expert_indices, slots)

    def of(self, tokens: np.ndarray) -> "ExpertUpdates":
        """Return those for some of the tokens, given by number, which may repeat."""
        return ExpertUpdates(self._modules, self._slots.select(tokens))

    def one_expert(self, expert: int, tokens: np.ndarray) -> "OneExpertUpdates":
        """Return those of one expert for some of the tokens, given by number (R,)."""
        return OneExpertUpdates(self._modules, expert, self._slots.select(tokens))


class PairUpdates:
    """The updates of pairs, computed by gathered products.

    `experts` and `slots` have one shape; `slots` is None if all pairs have one slot.
    """

    def __init__(
        self,
        modules: Mapping[str, SlotUpdates],
        used: RowSlots,
        experts: mx.array,
        slots: mx.array | None,
    ) -> None:
        self._modules = modules
        self._used = used
        self._experts = experts
        self._slots = slots

    def __getitem__(self, which: Any) -> "PairUpdates":
        """Return those of a part of the pairs."""
        return self._select(lambda x: x[which])

    def take(self, order: mx.array) -> "PairUpdates":
        """Return those of the flattened pairs, in an order (R,)."""
        return self._select(lambda x: x.flatten()[order])

    def _select(self, select: Any) -> "PairUpdates":
        slots = None if self._slots is None else select(self._slots)
        return PairUpdates(self._modules, self._used, select(self._experts), slots)

    def add(self, name: str, x: mx.array, y: mx.array) -> mx.array:
        """Add to the products y (..., 1, out) of x (..., 1, in) their updates."""
        update = self._modules.get(PREFIX + name)
        if update is None:
            return y
        found = [slot for slot in self._used.present if update.parts[slot] is not None]
        if len(found) > 1:
            assert update.stacked is not None
            return add_gathered(update.stacked, self._places(update), x, y)
        for slot in found:
            part = update.parts[slot]
            assert part is not None
            y = add_gathered(part, self._experts, x, y, self._mask(slot))
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
