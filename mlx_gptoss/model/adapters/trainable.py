"""Updates in training: A and B as parameters, applied by the model's own forward pass.

    updates = TrainableUpdates(model.config, {"lm_head": 8}, scale=2.0, seed=0)
    with updates.attached(model):
        loss, gradients = nn.value_and_grad(updates, lambda: loss_of(model(ids)))()
        optimizer.update(updates, gradients)
    adapter = updates.to_adapter("mine", base=digest)

While they are attached, all rows use them unless `adapters=[0]` is given. Knows nothing
of losses, optimizers or files.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.errors import ConfigError, MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.adapters.adapter import (
    Adapter,
    LowRank,
    target_shapes,
    updates_digest,
)
from mlx_gptoss.model.adapters.arrange import LM_HEAD_MODULE, arrange_updates
from mlx_gptoss.model.adapters.dropout import Dropout
from mlx_gptoss.model.adapters.stack import SlotUpdates
from mlx_gptoss.model.device import as_now
from mlx_gptoss.model.experts.streamed import StreamedExperts
from mlx_gptoss.model.gpt_oss import GptOss

SLOT = 1
SEPARATOR = "/"  # of parameter names: dots would be read as levels of a tree


class TrainableUpdates(nn.Module):
    """The A and B of chosen modules, float32 parameters `updates.MODULE.{a,b}`.

    In parameter names a module's path has slashes: `model/layers/0/mlp/router`.
    """

    def __init__(
        self,
        config: ModelConfig,
        ranks: Mapping[str, int],
        *,
        scale: float | Mapping[str, float] = 1.0,
        seed: int = 0,
        checkpointed: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Draw A from a normal distribution with deviation 1 / sqrt(in); B is zero.

        `ranks` maps module paths, see `target_shapes`, to ranks. `scale` multiplies
        every update: alpha / rank, of all modules or by path. With `checkpointed`, each
        layer is computed again for its gradient, which takes time and saves memory.
        `dropout` is the share of A's inputs that is dropped in training mode; see
        `draw_dropout`. Raises ConfigError for a module that the model does not have.
        """
        super().__init__()
        self.updates: dict[str, dict[str, mx.array]] = {}
        self.config = config
        self._scales = {
            path: scale[path] if isinstance(scale, Mapping) else scale for path in ranks
        }
        self.checkpointed = checkpointed
        self._seed = seed
        self._rate = dropout
        self._drawn = (0, 0)
        shapes = target_shapes(config)
        for path in ranks:
            if path not in shapes:
                raise ConfigError(f"`{path}` is no matrix that an adapter can update")
        keys = mx.random.split(mx.random.key(seed), max(1, len(ranks)))
        for key, path in zip(keys, sorted(ranks), strict=False):
            *experts, outputs, inputs = shapes[path]
            a = mx.random.normal((*experts, inputs, ranks[path]), key=key)
            self.updates[path.replace(".", SEPARATOR)] = {
                "a": a * inputs**-0.5,
                "b": mx.zeros((*experts, ranks[path], outputs)),
            }
        mx.eval(self.parameters())

    def start_from(self, updates: Mapping[str, Any]) -> None:
        """Start from updates of the same modules and ranks, with `a` and `b` each."""
        for name, pair in self.updates.items():
            path = name.replace(SEPARATOR, ".")
            pair["a"] = mx.array(updates[path].a, mx.float32)
            pair["b"] = mx.array(updates[path].b, mx.float32) / self._scales[path]
        mx.eval(self.parameters())

    def draw_dropout(self, step: int, batch: int = 0) -> None:
        """Let the next passes drop the values of this step and batch."""
        self._drawn = (step, batch)

    @property
    def dropout(self) -> Dropout | None:
        """The dropout of the next pass; None without one, and in evaluation mode."""
        if not self._rate or not self.training:
            return None
        return Dropout(self._rate, (self._seed % 2**64, *self._drawn))

    def low_rank(self, paths: Collection[str] | None = None) -> dict[str, LowRank]:
        """Return the updates by module path, the scale multiplied into B.

        `paths` are those of interest, by default all.
        """
        found = {}
        for name, pair in self.updates.items():
            path = name.replace(SEPARATOR, ".")
            if paths is None or path in paths:
                found[path] = LowRank(pair["a"], pair["b"] * self._scales[path])
        return found

    def to_adapter(self, name: str, *, base: str = "") -> Adapter:
        """Return the updates as they are now; `base` identifies the base model."""
        updates = self.low_rank()
        mx.eval([(update.a, update.b) for update in updates.values()])
        return Adapter(name, updates_digest(updates, base), updates)

    def recomputed(self, function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """Return a function of arrays that is computed again for its gradient.

        `mx.checkpoint` alone would lose the gradients of these parameters, which the
        function uses and does not take.
        """

        @mx.checkpoint
        @as_now
        def run(parameters: Any, *arrays: mx.array) -> mx.array:
            before = self.trainable_parameters()
            self.update(parameters)
            try:
                return function(*map(without_gradient_of_integers, arrays))
            finally:
                self.update(before)

        return lambda *arrays: run(self.trainable_parameters(), *arrays)

    @contextmanager
    def attached(self, model: GptOss) -> Iterator[None]:
        """Let a model use these updates, in training mode: see `attach`, `detach`."""
        self.attach(model)
        try:
            yield
        finally:
            self.detach(model)

    def attach(self, model: GptOss) -> None:
        """Let a model use these updates instead of its adapters, in training mode.

        Raises MemoryBudgetError if experts of the model are not in memory: those that
        a gradient needs may be overwritten before it is computed.
        """
        for layer, block in enumerate(model.model.layers):
            if isinstance(block.mlp.experts, StreamedExperts):
                raise MemoryBudgetError(
                    f"the experts of layer {layer} are streamed, and training needs "
                    "all of them in memory: use `--experts resident`"
                )
        model.set_adapters(self)
        model.train()

    def detach(self, model: GptOss) -> None:
        """Let a model compute without adapters, as fast as it can."""
        model.set_adapters(None)
        model.eval()

    def arrange(self, structure: Structure) -> "AttachedUpdates":
        """Return the updates as a model of this structure applies them."""
        return AttachedUpdates(self, structure)


def without_gradient_of_integers(x: mx.array) -> mx.array:
    """Return an array, of which no gradient is asked if it has none."""
    return x if mx.issubdtype(x.dtype, mx.floating) else mx.stop_gradient(x)


class AttachedUpdates:
    """The updates of slot 1, made anew from the parameters for each pass."""

    slots = SLOT + 1
    default_slot = SLOT

    def __init__(self, source: TrainableUpdates, structure: Structure) -> None:
        self._source = source
        self._structure = structure

    @property
    def checkpointed(self) -> bool:
        return self._source.checkpointed and self._source.training

    @property
    def dropout(self) -> Dropout | None:
        return self._source.dropout

    def layers(self) -> dict[int, dict[str, SlotUpdates]]:
        source = self._source
        arranged = arrange_updates(source.low_rank(), source.config, self._structure)
        return {
            layer: {name: SlotUpdates((None, one)) for name, one in modules.items()}
            for layer, modules in arranged.items()
        }

    def top(self) -> dict[str, SlotUpdates]:
        found = self._source.low_rank((LM_HEAD_MODULE,))
        return {name: SlotUpdates((None, one)) for name, one in found.items()}
