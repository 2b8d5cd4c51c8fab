"""One optimizer step: the gradient of some batches, clipped, and AdamW.

MLX's AdamW with bias correction computes what PyTorch's does. Knows nothing of files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.model.blas import sharing_threads
from mlx_gptoss.model.gpt_oss import GptOss
from mlx_gptoss.workloads.tune.batches import PackedTokens
from mlx_gptoss.workloads.tune.loss import batch_loss, learned_tokens, streams_of
from mlx_gptoss.workloads.tune.step_memory import limited_memory

Arrays = Mapping[str, mx.array]


@dataclass(frozen=True)
class OptimizerStep:
    """The loss per learned token before the step, and the gradient's norm."""

    loss: float
    gradient_norm: float
    tokens: int
    learned: int

    @property
    def finite(self) -> bool:
        """Whether the step could be made."""
        return abs(self.loss) < float("inf") and self.gradient_norm < float("inf")


class Trainer:
    """The updates in training, and their optimizer."""

    def __init__(
        self,
        model: GptOss,
        updates: TrainableUpdates,
        *,
        weight_decay: float = 0.0,
        clip: float = 0.0,
        logits_at_once: int | None = None,
        step_bytes: int | None = None,
    ) -> None:
        """Train updates that are attached to the model.

        step_bytes: what a step may take beyond what is held between steps, as planned;
            see `limited_memory`.
        """
        self.updates = updates
        self.clip = clip
        self._model = model
        self._limit = logits_at_once
        self._step_bytes = step_bytes
        self._gradient = nn.value_and_grad(updates, self._loss)
        self._optimizer = optim.AdamW(
            0.0, weight_decay=weight_decay, bias_correction=True
        )
        self._optimizer.init(updates.trainable_parameters())

    def gradient(self, batches: Sequence[PackedTokens]) -> tuple[mx.array, Any]:
        """Return the loss per learned token of all batches together, and its gradient.

        The loss is evaluated before its gradient, which takes up to a quarter less
        memory than both at once. Peak: the activations of the largest batch, and the
        gradient twice.
        """
        total, gradient = mx.array(0.0), None
        step = int(self._optimizer.step.item())  # pyright: ignore
        for number, batch in enumerate(batches):
            self.updates.draw_dropout(step, number)
            summed, one = self._gradient(batch)
            total = total + summed
            gradient = one if gradient is None else tree_map(mx.add, gradient, one)
            mx.eval(total)
            mx.eval(gradient)
        learned = max(1, sum(map(learned_tokens, batches)))
        return total / learned, tree_map(lambda x: x / learned, gradient)

    def step(
        self, batches: Sequence[PackedTokens], learning_rate: float
    ) -> OptimizerStep:
        """Make one step on accumulated batches; nothing changes if it is not finite."""
        streams = max(streams_of(self._model, batch) for batch in batches)
        with sharing_threads(streams), limited_memory(self._step_bytes):
            return self._step(batches, learning_rate)

    def _step(
        self, batches: Sequence[PackedTokens], learning_rate: float
    ) -> OptimizerStep:
        loss, gradient = self.gradient(batches)
        gradient, norm = optim.clip_grad_norm(gradient, self.clip or float("inf"))
        before = self.updates.trainable_parameters(), tree_map(_same, self._state)
        self._optimizer.learning_rate = learning_rate
        self._optimizer.update(self.updates, gradient)
        del gradient  # lazy: what is held here would be held until the end
        mx.eval(loss, norm, self.updates.parameters(), self._state)
        result = OptimizerStep(
            loss=float(loss.item()),  # pyright: ignore
            gradient_norm=float(norm.item()),  # pyright: ignore
            tokens=sum(len(batch.inputs) for batch in batches),
            learned=sum(map(learned_tokens, batches)),
        )
        if not result.finite:
            self.updates.update(before[0])
            self._optimizer.state = before[1]
        return result

    def evaluate(self, batches: Iterable[PackedTokens]) -> float:
        """Return the loss per learned token."""
        total = learned = 0.0
        self._model.eval()  # has no gradient, and is faster
        self.updates.eval()
        for batch in batches:
            total += float(self._loss(batch).item())  # pyright: ignore
            learned += learned_tokens(batch)
        self._model.train()
        self.updates.train()
        return total / learned

    def _loss(self, batch: PackedTokens) -> mx.array:
        return batch_loss(self._model, batch, updates=self.updates, limit=self._limit)

    @property
    def trained(self) -> Arrays:
        """The trained arrays by name."""
        return dict(tree_flatten(self.updates.trainable_parameters()))

    @property
    def optimizer_state(self) -> Arrays:
        """The state of the optimizer by name."""
        return dict(tree_flatten(self._state))

    @property
    def _state(self) -> dict[str, Any]:
        return dict(self._optimizer.state)

    def restore(self, trained: Arrays, optimizer: Arrays) -> None:
        """Go on from saved arrays. Raises KeyError for one that is missing."""
        own = self.updates.trainable_parameters()
        self.updates.update(tree_map_with_path(partial(_saved, trained), own))
        self._optimizer.state = tree_map_with_path(
            partial(_saved, optimizer), self._state
        )


def _saved(arrays: Arrays, name: str, _: mx.array) -> mx.array:
    return arrays[name]


def _same(array: mx.array) -> mx.array:
    """Return an array as it is: `tree_map` makes new dictionaries of the same."""
    return array
