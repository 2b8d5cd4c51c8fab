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

from mlx_gptoss.format import mxfp4
from mlx_gptoss.format.config import ModelConfig, Quantization
from mlx_gptoss.format.layout import PACKED, Structure
from mlx_gptoss.model.adapters.experts import (
    ExpertUpdates,
    OneExpertUpdates,
    PairUpdates,
)
from mlx_gptoss.model.device import second_stream, use_gpu_paths, use_host_paths
from mlx_gptoss.model.experts import host
from mlx_gptoss.model.experts.host import SWISH_SLOPE
from mlx_gptoss.model.linear import DEQUANTIZE_MIN_ROWS, should_dequantize

WORD_BITS = 32

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
# The same where MLX multiplies, which waits about 0.2 ms for each expert.
DEQUANTIZE_MIN_PRODUCTS = 6_000_000


class Projection(nn.Module):
    """E matrices of one shape with their biases, quantized or dense.

    Quantized: weight uint32 [E, out, in * bits / 32], scales and, if affine, biases.
    Dense: weight [E, in, out]. Always: bias [E, out].
    """

    def __init__(
        self, E: int, inputs: int, outputs: int, quantization: Quantization | None
    ) -> None:
        super().__init__()
        self.quantization = quantization
        self.bias = mx.zeros((E, outputs))
        if quantization is None:
            self.weight = mx.zeros((E, inputs, outputs))
            return
        groups = inputs // quantization.group_size
        words = inputs * quantization.bits // WORD_BITS
        self.weight = mx.zeros((E, outputs, words), mx.uint32)
        if not quantization.is_affine:
            self.scales = mx.zeros((E, outputs, groups), mx.uint8)
        else:
            self.scales = mx.zeros((E, outputs, groups))
            self.biases = mx.zeros((E, outputs, groups))

    def __call__(
        self, x: mx.array, expert_indices: mx.array, *, sorted_by_expert: bool = False
    ) -> mx.array:
        """Multiply x (..., 1, in) by the matrices of experts (...) -> (..., 1, out)."""
        indices = self.stack_indices(expert_indices)
        if self.quantization is None:
            y = mx.gather_mm(
                x, self.weight, rhs_indices=indices, sorted_indices=sorted_by_expert
            )
        else:
            y = mx.gather_qmm(
                x,
                self.weight,
                self.scales,
                getattr(self, "biases", None),  # affine only
                rhs_indices=indices,
                transpose=True,
                group_size=self.quantization.group_size,
                bits=self.quantization.bits,
                mode=self.quantization.mode,
                sorted_indices=sorted_by_expert,
            )
        return y + self.bias[expert_indices][..., None, :]

    def stack_indices(self, expert_indices: mx.array) -> mx.array:
        """Return the positions of experts in the stacks: here, the indices."""
        return expert_indices

    def stack_index(self, expert: int) -> int:
        """Return the position of one expert in the stacks."""
        return expert

    def multiply_one(self, x: mx.array, expert_index: int) -> mx.array:
        """Multiply x (rows, in) by one matrix -> (rows, out); for training on a CPU."""
        if len(x) < DEQUANTIZE_MIN_ROWS:
            return self(x[:, None], mx.full(len(x), expert_index, mx.uint32)).squeeze(1)
        return mx.addmm(self.bias[expert_index], x, self.dequantize(expert_index))

    def multiply_on_host(self, x: np.ndarray, expert_index: int) -> np.ndarray:
        """Multiply x (rows, in) float32 by one matrix in numpy -> (rows, out)."""
        y = x @ self.host_matrix(expert_index)
        y += np.asarray(self.bias.astype(mx.float32))[expert_index]
        return y

    def host_matrix(self, expert: int) -> np.ndarray:
        """Return one matrix, float32 (in, out); of dense ones a view if it can be."""
        if self.quantization is None or self.quantization.mode != "mxfp4":
            return np.asarray(self.dequantize(expert).astype(mx.float32))
        index = self.stack_index(expert)
        scales = np.asarray(self.scales)[index]
        blocks = np.asarray(self.weight)[index].view(np.uint8)
        blocks = blocks.reshape(*scales.shape, mxfp4.BYTES_PER_BLOCK)
        return mxfp4.decode(blocks, scales).T

    def dequantize(self, expert: int) -> mx.array:
        """Dequantize one matrix to float32 (in, out)."""
        index = self.stack_index(expert)
        one = slice(index, index + 1)  # a view; an index would copy
        if self.quantization is None:
            return self.weight[one].squeeze(0)
        if self.quantization.mode == "mxfp4":
            # numpy's table lookup is five times faster than `mx.dequantize`.
            return mx.array(self.host_matrix(expert).T).T
        if not self.quantization.is_affine:
            weight = mx.dequantize(
                self.weight[one],
                self.scales[one],
                group_size=self.quantization.group_size,
                bits=self.quantization.bits,
                mode=self.quantization.mode,
                dtype=mx.float32,
            )
            return weight.squeeze(0).T
        weight = mx.dequantize(
            self.weight[one],
            self.scales[one],
            self.biases[one],
            group_size=self.quantization.group_size,
            bits=self.quantization.bits,
        )
        return weight.squeeze(0).T


class Experts(nn.Module):
    """The resident experts of one layer.

    Gate and up are one `gate_up_proj` with interleaved rows, as OpenAI packed them, or
    two projections, as mlx-lm splits them.
    """

    def __init__(self, config: ModelConfig, structure: Structure, path: str) -> None:
        super().__init__()
        M, F = config.hidden_size, config.intermediate_size
        self.count = config.num_local_experts
        self.products = 3 * M * F  # multiplications per token and expert
        self.limit = config.swiglu_limit

        def projection(name: str, inputs: int, outputs: int) -> Projection:
            quantization = structure.quantization.get(f"{path}.{name}")
            return self.make_projection(name, inputs, outputs, quantization)

        self.packed = structure.experts == PACKED
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
        if self.runs_one_by_one(rows, x.dtype):
            return self.apply_one_by_one(x, expert_indices, updates)
        pairs = updates and updates.pairs(expert_indices)
        if use_gpu_paths() and rows >= SORT_MIN_ROWS:
            return self.apply_sorted(x, expert_indices, pairs)
        if not use_gpu_paths() and rows * self.products >= TWO_STREAMS_MIN_PRODUCTS:
            return self.apply_on_two_streams(x, expert_indices, pairs)
        return self.apply_gathered(x, expert_indices, pairs)

    def runs_one_by_one(self, rows: int, dtype: mx.Dtype) -> bool:
        """Return whether to decode expert by expert: for many rows on a CPU.

        In training MLX multiplies, which pays only with a fast BLAS, and only dense
        experts: what numpy decodes has no gradient, and would be kept for every layer.
        """
        each, products = rows // self.count, rows * self.products
        if not self.training:
            enough = each >= ONE_BY_ONE_MIN_ROWS and products >= ONE_BY_ONE_MIN_PRODUCTS
            return enough and use_host_paths(dtype)
        dense = all(
            projection.quantization is None for projection in self.projections.values()
        )
        enough = products >= DEQUANTIZE_MIN_PRODUCTS
        return enough and dense and should_dequantize(each, dtype)

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

        def apply(part: slice) -> mx.array:
            own = updates and updates[:, part]
            return self.apply_gathered(x, expert_indices[:, part], own)

        with mx.stream(second_stream()):
            second = apply(slice(half, None))
        return mx.concatenate([apply(slice(half)), second], axis=1)

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

    def apply_one_by_one(
        self,
        x: mx.array,
        expert_indices: mx.array,
        updates: ExpertUpdates | None = None,
    ) -> mx.array:
        """Decode one expert at a time and multiply with a BLAS: -> (N, T, M).

        Decoding is exact, so only the order of summation differs from the gathered
        product. Evaluates: in training, of dense experts, only the indices. Peak: one
        projection in float32.
        """
        N, T = expert_indices.shape
        evaluate = np.array if updates is None else updates.evaluate
        experts = evaluate(expert_indices).ravel()
        order = np.argsort(experts, kind="stable")
        bounds = np.searchsorted(experts[order], np.arange(self.count + 1)).tolist()
        tokens = order // T
        chosen = [
            (expert, slice(*part))
            for expert, part in enumerate(pairwise(bounds))
            if part[0] < part[1]
        ]
        if not self.training:
            values = np.asarray(x)
            y = np.empty((N * T, values.shape[1]), np.float32)
            for expert, part in chosen:
                own = updates and updates.one_expert(expert, tokens[part])
                y[order[part]] = self.apply_on_host(values[tokens[part]], expert, own)
            return mx.array(y.reshape(N, T, -1))
        rows = x[mx.array(tokens)]  # (R, M)
        parts = [
            self.apply_one(
                rows[part],
                expert,
                updates and updates.one_expert(expert, tokens[part]),
            )
            for expert, part in chosen
        ]
        inverse = np.argsort(order)
        return mx.concatenate(parts)[mx.array(inverse)].reshape(N, T, -1)

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

        return host.feed_forward(x, project, self.limit, packed=self.packed)

    def apply_one(
        self, x: mx.array, expert: int, updates: OneExpertUpdates | None = None
    ) -> mx.array:
        """Run x (rows, M) through one expert, with a gradient -> (rows, M)."""
        return self.feed_forward(x, lambda p, x: p.multiply_one(x, expert), updates)

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

        if self.packed:
            z = project("gate_up_proj", x)
            gate, up = z[..., 0::2], z[..., 1::2]
        else:
            gate, up = project("gate_proj", x), project("up_proj", x)
        return project("down_proj", swiglu(gate, up, self.limit))


def swiglu_plain(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """Return swish(gate) * (up + 1); the gate is clamped from above only."""
    gate = mx.minimum(gate, limit)
    up = mx.clip(up, -limit, limit)
    return gate * mx.sigmoid(SWISH_SLOPE * gate) * (up + 1)


_swiglu_compiled = mx.compile(swiglu_plain, shapeless=True)


def swiglu(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """Run `swiglu_plain`, compiled to one kernel on a GPU.

    MLX compiles for a CPU too, but by starting a C++ compiler.
    """
    if use_gpu_paths():
        return _swiglu_compiled(gate, up, limit)
    return swiglu_plain(gate, up, limit)
