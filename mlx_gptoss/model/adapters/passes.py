"""Updates of one forward pass: which rows use which adapter, layer by layer.

active = activate(updates, adapters)          # None: not one operation more
rows = active.for_rows(lengths)
y = updated(self.o_proj(x), x, rows.layer(3), "self_attn.o_proj")
"""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.adapters.adapter import LowRank
from mlx_gptoss.model.adapters.arrange import LM_HEAD_MODULE, TOP
from mlx_gptoss.model.adapters.dropout import Dropout
from mlx_gptoss.model.adapters.experts import ExpertUpdates
from mlx_gptoss.model.adapters.rows import RowSlots, add_updates
from mlx_gptoss.model.adapters.stack import (
    NO_ADAPTER,
    ArrangedUpdates,
    SlotUpdates,
)
from mlx_gptoss.model.device import as_now

Layers = Mapping[int, Mapping[str, SlotUpdates]]
Arrays = dict[str, dict[str, mx.array]]


class LayerUpdates:
    """The updates of one layer for the tokens of a pass.

    `tokens` and `last` have the slots of all tokens and of each row's last one.
    """

    def __init__(
        self,
        modules: Mapping[str, SlotUpdates],
        tokens: RowSlots,
        last: RowSlots,
        dropout: Dropout | None = None,
    ) -> None:
        self._modules = modules
        self._tokens = tokens
        self._last = last
        self._dropout = dropout

    def add(self, name: str, x: mx.array, y: mx.array) -> mx.array:
        """Add to a module's products y (..., out) of x (..., in) their updates."""
        update = self._modules.get(name)
        if update is None:
            return y
        if self._dropout is not None:
            x = self._dropout.apply(name, x)
        return add_updates(update, self._tokens, x, y)

    def experts(self) -> ExpertUpdates:
        """Return the updates of the experts."""
        return ExpertUpdates(self._modules, self._tokens, self._dropout)

    def at_last_positions(self) -> "LayerUpdates":
        """Return the updates for the last token of each row."""
        return LayerUpdates(self._modules, self._last, self._last, self._dropout)

    def arrays(self) -> Arrays:
        """Return A and B of every module that the only slot in use updates."""
        return {
            name: {"a": part.a, "b": part.b}
            for name, update in self._modules.items()
            if (part := update.parts[self._only_slot]) is not None
        }

    def with_arrays(self, arrays: Arrays) -> "LayerUpdates":
        """Return the same updates with other A and B in the only slot in use."""
        modules = {}
        for name, pair in arrays.items():
            parts: list[LowRank | None] = [None] * (self._only_slot + 1)
            parts[self._only_slot] = LowRank(**pair)
            modules[name] = SlotUpdates(tuple(parts))
        return LayerUpdates(modules, self._tokens, self._last, self._dropout)

    @property
    def _only_slot(self) -> int:
        assert self._tokens.one is not None, "only rows of one slot can be checkpointed"
        return self._tokens.one


class PassUpdates:
    """The updates of a pass whose rows are in the order of computing."""

    def __init__(
        self,
        layers: Layers,
        tokens: RowSlots,
        last: RowSlots,
        *,
        checkpointed: bool,
        dropout: Dropout | None = None,
    ) -> None:
        self._layers = layers
        self._tokens = tokens
        self._last = last
        self._dropout = dropout
        self.checkpointed = checkpointed

    def layer(self, number: int) -> LayerUpdates | None:
        """Return the updates of a layer, None if it has none."""
        modules = self._layers.get(number)
        if not modules:
            return None
        dropout = self._dropout and self._dropout.of(number)
        return LayerUpdates(modules, self._tokens, self._last, dropout)


class ActiveAdapters:
    """The slots of the rows of a pass, at least one of them not 0."""

    def __init__(
        self, updates: ArrangedUpdates, slots: Sequence[int] | np.ndarray
    ) -> None:
        self._updates = updates
        self._slots = np.asarray(slots, np.uint32)

    def for_rows(
        self, lengths: Sequence[int], order: Sequence[int] | None = None
    ) -> PassUpdates:
        """Return the updates of rows with these numbers of tokens.

        `order` has the rows' numbers as they are computed; `lengths` follow it.
        """
        slots = self._slots if order is None else self._slots[list(order)]
        if len(slots) == 1:
            slots = np.repeat(slots, len(lengths))
        assert len(slots) == len(lengths), f"{len(slots)} slots, {len(lengths)} rows"
        last = RowSlots(slots)
        tokens = last if last.one is not None else RowSlots(np.repeat(slots, lengths))
        return PassUpdates(
            self._updates.layers(),
            tokens,
            last,
            checkpointed=self._updates.checkpointed,
            dropout=self._updates.dropout,
        )

    def add_to_logits(
        self, hidden: mx.array, y: mx.array, lengths: Sequence[int] | None
    ) -> mx.array:
        """Add to the products y (..., V) of hidden (..., M) the updates of lm_head."""
        tokens, slots = hidden.size // hidden.shape[-1], self._slots
        if len(slots) == 1:
            slots = np.repeat(slots, tokens)
        elif lengths is not None:
            slots = np.repeat(slots, lengths)
        elif hidden.ndim == 3 and len(slots) == hidden.shape[0]:
            slots = np.repeat(slots, hidden.shape[1])
        assert len(slots) == tokens, f"{len(self._slots)} slots, {hidden.shape=}"
        update = self._updates.top().get(LM_HEAD_MODULE)
        if update is None:
            return y
        if (dropout := self._updates.dropout) is not None:
            hidden = dropout.of(TOP).apply(LM_HEAD_MODULE, hidden)
        return add_updates(update, RowSlots(slots), hidden, y)


def activate(
    updates: ArrangedUpdates | None, adapters: Sequence[int] | None
) -> ActiveAdapters | None:
    """Return the adapters of the rows of a pass, None if none is in use."""
    if updates is None:
        assert not any(adapters or ()), f"{adapters=} without `set_adapters`"
        return None
    slots = [updates.default_slot] if adapters is None else list(adapters)
    assert all(0 <= slot < updates.slots for slot in slots), f"{slots=}"
    if all(slot == NO_ADAPTER for slot in slots):
        return None
    return ActiveAdapters(updates, slots)


def updated(
    y: mx.array, x: mx.array, updates: LayerUpdates | None, name: str
) -> mx.array:
    """Return the products y of x with what a layer's updates of a module add."""
    return y if updates is None else updates.add(name, x, y)


def compute_again(
    layer: Callable[..., mx.array], h: mx.array, updates: LayerUpdates
) -> mx.array:
    """Run a layer; for its gradient run it again, so that only `h` is kept till then.

    Gradient checkpointing (arXiv 1604.06174).
    """

    @mx.checkpoint
    @as_now
    def run(h: mx.array, arrays: Arrays) -> mx.array:
        return layer(h, updates=updates.with_arrays(arrays))

    return run(h, updates.arrays())
