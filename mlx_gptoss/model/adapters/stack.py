"""Several adapters in one model, each in a slot; slot 0 means no adapter.

    stack = AdapterStack(model.config, [one, other])
    model.set_adapters(stack)
    model.hidden(ids, caches, adapters=[0, stack.slot("other")])

Where two adapters update one matrix, their A and B are stacked, padded to the larger
rank, behind one matrix of zeros that slot 0 uses: so that rows of different adapters
are one gathered product. Dimensions: r rank, E experts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_gptoss.errors import CheckpointError, PromptError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.adapters.adapter import Adapter, LowRank, require_fit
from mlx_gptoss.model.adapters.arrange import TOP, arrange_updates
from mlx_gptoss.model.adapters.dropout import Dropout
from mlx_gptoss.model.device import on_gpu

NO_ADAPTER = 0


@dataclass(frozen=True)
class SlotUpdates:
    """The updates of one matrix, or stack of experts, by slot; None changes nothing.

    `stacked` has those of all slots behind zeros: a (1 + n, in, r), b (1 + n, r, out),
    where n counts matrices; `starts` are the places of each slot's first matrix, 0 for
    none. It is made only if two slots have an update, whose `parts` are views of it.
    """

    parts: tuple[LowRank | None, ...]
    stacked: LowRank | None = None
    starts: tuple[int, ...] = ()

    @cached_property
    def expert_places(self) -> mx.array:
        """Return the place in `stacked` of `slot * E + expert`: uint32."""
        count = next(len(part.a) for part in self.parts if part is not None)
        places = [
            np.arange(start, start + count) if start else np.zeros(count)
            for start in self.starts
        ]
        return mx.array(np.concatenate(places).astype(np.uint32))

    @property
    def arrays(self) -> Iterator[mx.array]:
        """The arrays that are held, none twice."""
        parts = self.parts if self.stacked is None else (self.stacked,)
        for part in parts:
            if part is not None:
                yield from (part.a, part.b)


class ArrangedUpdates(Protocol):
    """Updates as a model applies them."""

    @property
    def slots(self) -> int: ...
    @property
    def default_slot(self) -> int:
        """The slot of rows for which none is given."""
        ...

    @property
    def checkpointed(self) -> bool:
        """Whether to compute each layer again for its gradient."""
        ...

    @property
    def dropout(self) -> Dropout | None:
        """What drops values of the inputs of A; None drops none."""
        ...

    def layers(self) -> Mapping[int, Mapping[str, SlotUpdates]]:
        """Return the updates by layer and module; see `arrange`."""
        ...

    def top(self) -> Mapping[str, SlotUpdates]:
        """Return the updates of what belongs to no layer, by module."""
        ...


class UpdateSource(Protocol):
    """A source of updates for a model: an `AdapterStack`, or updates in training."""

    def arrange(self, structure: Structure) -> ArrangedUpdates: ...


class StackedUpdates:
    """The updates of all adapters of a stack, evaluated, as one model applies them."""

    default_slot = NO_ADAPTER
    checkpointed = False
    dropout = None

    def __init__(
        self, slots: int, layers: Mapping[int, Mapping[str, SlotUpdates]]
    ) -> None:
        self.slots = slots
        self._layers = layers
        for modules in layers.values():  # layer by layer: bounds what is held twice
            mx.eval([array for one in modules.values() for array in one.arrays])
            # Lazy views could be computed only by this thread.
            parts = (part for one in modules.values() for part in one.parts if part)
            mx.eval([(part.a, part.b) for part in parts])

    def layers(self) -> Mapping[int, Mapping[str, SlotUpdates]]:
        return self._layers

    def top(self) -> Mapping[str, SlotUpdates]:
        return self._layers.get(TOP, {})


class AdapterStack:
    """Adapters to be loaded into a model; the first one has slot 1.

    On a GPU they are kept in memory as `dtype`, and multiplied in it; on a CPU always
    as float32, the only dtype of its gathered products. Raises CheckpointError if two
    have one name, or if one does not fit the model.
    """

    def __init__(
        self,
        config: ModelConfig,
        adapters: Sequence[Adapter],
        *,
        dtype: mx.Dtype = mx.float32,
    ) -> None:
        self.adapters = tuple(adapters)
        self._config = config
        self._dtype = dtype if on_gpu() else mx.float32
        names = [adapter.name for adapter in self.adapters]
        for name in names:
            if names.count(name) > 1:
                raise CheckpointError(
                    f"two adapters are called `{name}`: give one another name"
                )
        for adapter in self.adapters:
            require_fit(adapter, config)
        self._slots = {name: slot for slot, name in enumerate(names, start=1)}

    def slot(self, name: str | None) -> int:
        """Return the slot of an adapter; None has slot 0. Raises PromptError."""
        if name is None:
            return NO_ADAPTER
        if name not in self._slots:
            known = ", ".join(f"`{each}`" for each in self._slots) or "none"
            raise PromptError(f"adapter `{name}` is not loaded; loaded: {known}")
        return self._slots[name]

    def nbytes(self, structure: Structure) -> int:
        """Return the bytes that a model will hold; evaluates nothing."""
        layers = self._arranged(structure)
        modules = [one for layer in layers.values() for one in layer.values()]
        return sum(array.nbytes for one in modules for array in one.arrays)

    def arrange(self, structure: Structure) -> StackedUpdates:
        """Stack the updates for a model of this structure; for `GptOss.set_adapters`.

        The result does not refer to the adapters. Where only one of them updates a
        matrix, it shares their arrays.
        """
        return StackedUpdates(len(self.adapters) + 1, self._arranged(structure))

    def _arranged(self, structure: Structure) -> dict[int, dict[str, SlotUpdates]]:
        each = [
            arrange_updates(adapter.updates, self._config, structure)
            for adapter in self.adapters
        ]
        found: dict[int, dict[str, SlotUpdates]] = {}
        for layer in sorted({layer for one in each for layer in one}):
            modules = [one.get(layer, {}) for one in each]
            names = dict.fromkeys(name for one in modules for name in one)
            found[layer] = {
                name: stack_slots([one.get(name) for one in modules], self._dtype)
                for name in names
            }
        return found


def stack_slots(updates: Sequence[LowRank | None], dtype: mx.Dtype) -> SlotUpdates:
    """Stack the updates of slots 1, 2, ... of one module; evaluates nothing."""
    present = [update for update in updates if update is not None]
    if len(present) < 2:
        own = [x and LowRank(x.a.astype(dtype), x.b.astype(dtype)) for x in updates]
        return SlotUpdates((None, *own))
    rank = max(update.rank for update in present)
    counts = [
        0 if x is None else x.a.size // (x.a.shape[-1] * x.a.shape[-2]) for x in updates
    ]
    ends = list(accumulate(counts, initial=1))
    a, b = [], []
    for update in present:
        inputs, own, outputs = *update.a.shape[-2:], update.b.shape[-1]
        wide = mx.pad(
            update.a.reshape(-1, inputs, own), [(0, 0), (0, 0), (0, rank - own)]
        )
        tall = mx.pad(
            update.b.reshape(-1, own, outputs), [(0, 0), (0, rank - own), (0, 0)]
        )
        a.append(wide.astype(dtype))
        b.append(tall.astype(dtype))
    stacked = LowRank(
        mx.concatenate([mx.zeros_like(a[0][:1]), *a]),
        mx.concatenate([mx.zeros_like(b[0][:1]), *b]),
    )
    parts: list[LowRank | None] = [None]
    for update, start, end in zip(updates, ends, ends[1:], strict=False):
        if update is None:
            parts.append(None)
            continue
        own = LowRank(stacked.a[start:end], stacked.b[start:end])  # views
        flat = update.a.ndim == 2
        parts.append(LowRank(own.a.squeeze(0), own.b.squeeze(0)) if flat else own)
    starts = [start if count else 0 for start, count in zip(ends, counts, strict=False)]
    return SlotUpdates(tuple(parts), stacked, (0, *starts))
