"""Experts that are all in memory, in every layout a checkpoint may have.

Other kinds of storage implement the same call:

    experts(x, expert_indices, expert_weights)  # (N, M), (N, T), (N, T) -> (N, M)

A last argument, `updates`, has the adapters' updates of the experts for these tokens.
Knows nothing of routing or layers. Dimensions: N tokens, T experts per token,
E experts, M hidden size, F intermediate size, R = N * T rows.
"""

from collections.abc import Callable
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_gptoss.format.config import ModelConfig, Quantization
from mlx_gptoss.format.layout import JOINED, SPLIT, Structure
from mlx_gptoss.model.adapters.experts import (
    ExpertUpdates,
    OneExpertUpdates,
    PairUpdates,
)
from mlx_gptoss.model.device import (
    second_stream,
    second_stream_is_free,
    use_gpu_paths,
    use_host_paths,
)
from mlx_gptoss.model.experts import host
from mlx_gptoss.model.experts.blocks import ExpertBlocks, rows_of_block
from mlx_gptoss.model.experts.projection import Projection
from mlx_gptoss.model.experts.swiglu import (
    SWISH_SLOPE,  # noqa: F401 - a path that was documented
    interleaved_swiglu_in_training,
    swiglu,
    swiglu_in_training,
)
from mlx_gptoss.model.linear import should_dequantize, shrunk

# From this many rows on, sort them by expert: a GPU's gathered kernels then read each
# expert once. The CPU's ignore the order.
SORT_MIN_ROWS = 64

# A CPU stream is one thread, so from this many multiplications on (about 2 ms) half of
# the experts run on a second stream; the handover costs about 0.1 ms.
TWO_STREAMS_MIN_PRODUCTS = 2_000_000

# Experts are decoded one by one for this many rows of each, on average, and this many
# multiplications; for fewer the scalar loops are faster.
ONE_BY_ONE_MIN_ROWS = 8
ONE_BY_ONE_MIN_PRODUCTS = 3_000_000


class Experts(nn.Module):
    """The resident experts of one layer.

    Gate and up are one `gate_up_proj` with interleaved rows, as OpenAI packed them, or
    with those of gate first, or two projections, as mlx-lm splits them.
    """

    def __init__(self, config: ModelConfig, structure: Structure, path: str) -> None:
        super().__init__()
        M, F = config.hidden_size, config.intermediate_size
        self.count = config.num_local_experts
        self.products = 3 * M * F  # multiplications per token and expert
        self.limit = config.swiglu_limit
        self.shrink = 1.0  # of what is given to `down_proj`; see `model.residual`

        def projection(name: str, inputs: int, outputs: int) -> Projection:
            quantization = structure.quantization.get(f"{path}.{name}")
            return self.make_projection(name, inputs, outputs, quantization)

        self.packed = structure.experts != SPLIT  # into one projection
        self.joined = structure.experts == JOINED
        if self.packed:
            self.gate_up_proj = projection("gate_up_proj", M, 2 * F)
        else:
            self.gate_proj = projection("gate_proj", M, F)
            self.up_proj = projection("up_proj", M, F)
        self.down_proj = projection("down_proj", F, M)

    def make_projection(
        self, name: str, inputs: int, outputs: int, quantization: Quantization | None
    ) -> Projection:
        """Create one projection of all experts."""
        return Projection(self.count, inputs, outputs, quantization)

    @property
    def projections(self) -> dict[str, Projection]:
        """The projections by name."""
        names = ("gate_up_proj",) if self.packed else ("gate_proj", "up_proj")
        return {name: getattr(self, name) for name in (*names, "down_proj")}

    def __call__(
        self,
        x: mx.array,
        expert_indices: mx.array,
        expert_weights: mx.array,
        updates: ExpertUpdates | None = None,
    ) -> mx.array:
        """Return the weighted sum of each token's experts: (N, M)."""
        y = self.apply_experts(x, expert_indices, updates)
        return (expert_weights[:, None] @ y).squeeze(1)

    def apply_experts(
        self,
        x: mx.array,
        expert_indices: mx.array,
        updates: ExpertUpdates | None = None,
    ) -> mx.array:
        """Run each token through its experts, the fastest way: -> (N, T, M)."""
        rows = expert_indices.size
        if self.training and not use_gpu_paths() and rows >= SORT_MIN_ROWS:
            return self.apply_in_blocks(x, expert_indices, updates)
        if self.runs_one_by_one(rows, x.dtype):
            return self.apply_one_by_one(x, expert_indices, updates)
        pairs = updates and updates.pairs(expert_indices)
        if use_gpu_paths() and rows >= SORT_MIN_ROWS:
            return self.apply_sorted(x, expert_indices, pairs)
        if self.fills_two_streams(rows):
            return self.apply_on_two_streams(x, expert_indices, pairs)
        return self.apply_gathered(x, expert_indices, pairs)

    def runs_one_by_one(self, rows: int, dtype: mx.Dtype) -> bool:
        """Return whether to decode expert by expert: for many rows on a CPU.

        Not in training: what numpy computes has no gradient.
        """
        each, products = rows // self.count, rows * self.products
        enough = each >= ONE_BY_ONE_MIN_ROWS and products >= ONE_BY_ONE_MIN_PRODUCTS
        plain = not self.training and self.shrink == 1
        return enough and plain and use_host_paths(dtype)

    def fills_two_streams(self, rows: int) -> bool:
        """Return whether so many rows are worth a second stream, and it is free."""
        return second_stream_is_free() and (
            rows * self.products >= TWO_STREAMS_MIN_PRODUCTS
        )

    def apply_gathered(
        self, x: mx.array, expert_indices: mx.array, updates: PairUpdates | None = None
    ) -> mx.array:
        """Multiply all rows at once, unsorted: -> (N, T, M)."""
        x = x[:, None, None]  # (N, 1, 1, M)
        y = self.feed_forward(x, lambda p, x: p(x, expert_indices), updates)
        return y.squeeze(2)

    def apply_on_two_streams(
        self, x: mx.array, expert_indices: mx.array, updates: PairUpdates | None = None
    ) -> mx.array:
        """Do the same on two CPU streams: -> (N, T, M)."""
        half = expert_indices.shape[1] // 2
        if half == 0:
            return self.apply_gathered(x, expert_indices, updates)

        def apply(number: int, part: slice) -> mx.array:
            own = updates and updates.part(number, (slice(None), part))
            return self.apply_gathered(x, expert_indices[:, part], own)

        with mx.stream(second_stream()):
            second = apply(1, slice(half, None))
        return mx.concatenate([apply(0, slice(half)), second], axis=1)

    def apply_sorted(
        self, x: mx.array, expert_indices: mx.array, updates: PairUpdates | None = None
    ) -> mx.array:
        """Sort the rows by expert for the gathered kernels: -> (N, T, M)."""
        N, T = expert_indices.shape
        order = mx.argsort(self.down_proj.stack_indices(expert_indices).flatten())
        ordered = expert_indices.flatten()[order]
        rows = x[order // T][:, None]  # (R, 1, M)
        y = self.feed_forward(
            rows,
            lambda p, x: p(x, ordered, sorted_by_expert=True),
            updates and updates.take(order),
        ).squeeze(1)
        return y[mx.argsort(order)].reshape(N, T, -1)

    def apply_in_blocks(
        self,
        x: mx.array,
        expert_indices: mx.array,
        updates: ExpertUpdates | None = None,
        *,
        decode: bool | None = None,
    ) -> mx.array:
        """Multiply blocks of rows of one expert, with a gradient: -> (N, T, M).

        A fast BLAS multiplies blocks of many rows; quantized matrices are decoded for
        it, a layer at a time. Other products read a matrix for each row.
        """
        rows = expert_indices.size
        if decode is None:
            decode = should_dequantize(rows // self.count, x.dtype)
        size = rows_of_block(rows, self.count) if decode else 1
        blocks = ExpertBlocks(expert_indices, self.count, size)
        dispatched = blocks.dispatch(x)
        own = updates and updates.blocks(blocks.experts)

        def run(number: int, part: slice) -> mx.array:
            experts = blocks.experts[part]
            return self.feed_forward(
                dispatched[part],
                lambda p, x: p.multiply_blocks(x, experts, decode=decode),
                own and own.part(number, part),
            )

        half = len(dispatched) // 2
        if decode or not self.fills_two_streams(rows):
            return blocks.combine(run(0, slice(None)))
        with mx.stream(second_stream()):
            second = run(1, slice(half, None))
        return blocks.combine(mx.concatenate([run(0, slice(half)), second]))

    def apply_one_by_one(
        self,
        x: mx.array,
        expert_indices: mx.array,
        updates: ExpertUpdates | None = None,
    ) -> mx.array:
        """Decode one expert at a time and multiply it in numpy: -> (N, T, M).

        Decoding is exact, so only the order of summation differs from the gathered
        product. Evaluates. Peak: one projection in float32.
        """
        N, T = expert_indices.shape
        experts = np.array(expert_indices).ravel()
        order = np.argsort(experts, kind="stable")
        bounds = np.searchsorted(experts[order], np.arange(self.count + 1)).tolist()
        tokens = order // T
        values = np.asarray(x)
        y = np.empty((N * T, values.shape[1]), np.float32)
        for expert, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                part = slice(start, end)
                own = updates and updates.one_expert(expert, tokens[part])
                y[order[part]] = self.apply_on_host(values[tokens[part]], expert, own)
        return mx.array(y.reshape(N, T, -1))

    def apply_on_host(
        self, x: np.ndarray, expert: int, updates: OneExpertUpdates | None = None
    ) -> np.ndarray:
        """Run x (rows, M) float32 through one expert in numpy -> (rows, M).

        Updates of adapters, which are small, are added by MLX: a row without one has
        the same bits as where no adapter is active.
        """

        def project(name: str, x: np.ndarray) -> np.ndarray:
            y = self[name].multiply_on_host(x, expert)
            if updates is None:
                return y
            return np.asarray(updates.add(name, mx.array(x), mx.array(y)))

        return host.feed_forward(
            x, project, self.limit, packed=self.packed, joined=self.joined
        )

    def feed_forward(
        self,
        x: mx.array,
        multiply: Callable[[Projection, mx.array], mx.array],
        updates: PairUpdates | OneExpertUpdates | None = None,
    ) -> mx.array:
        """Run (..., M) through gate, up and down -> (..., M)."""

        def project(name: str, x: mx.array) -> mx.array:
            y = multiply(self[name], x)
            return y if updates is None else updates.add(name, x, y)

        if not self.packed:
            activate = swiglu_in_training if self.training else swiglu
            gate, up = project("gate_proj", x), project("up_proj", x)
            return project(
                "down_proj", shrunk(activate(gate, up, self.limit), self.shrink)
            )
        z = project("gate_up_proj", x)
        if self.joined:
            gate, up = mx.split(z, 2, axis=-1)
            return project("down_proj", swiglu(gate, up, self.limit))
        if self.training:
            return project("down_proj", interleaved_swiglu_in_training(z, self.limit))
        activation = swiglu(z[..., 0::2], z[..., 1::2], self.limit)
        return project("down_proj", shrunk(activation, self.shrink))
