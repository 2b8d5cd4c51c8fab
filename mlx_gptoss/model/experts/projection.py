"""Matrices of all experts of a layer, quantized or dense, and their products.

Dimensions: E experts, B blocks of rows.
"""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_gptoss.format import mxfp4
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.model.host_product import multiply
from mlx_gptoss.model.linear import multiply_decoding

WORD_BITS = 32


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

    def multiply_blocks(
        self, x: mx.array, experts: mx.array, *, decode: bool
    ) -> mx.array:
        """Multiply blocks (B, rows, in), sorted by expert -> (B, rows, out).

        With `decode`, quantized matrices of all experts are decoded first.
        """
        if not decode or self.quantization is None:
            return self(x, experts, sorted_by_expert=True)
        multiply = partial(gather_product, experts)
        y = multiply_decoding(x, self._weight_after, multiply)
        return y + self.bias[experts][:, None]

    def _weight_after(self, x: mx.array) -> mx.array:
        """Return all matrices, float32 (E, out, in), decoded behind x."""
        assert self.quantization is not None
        return mx.dequantize(
            mx.depends(self.weight, x),
            self.scales,
            getattr(self, "biases", None),  # affine only
            group_size=self.quantization.group_size,
            bits=self.quantization.bits,
            mode=self.quantization.mode,
            dtype=mx.float32,
        )

    def multiply_on_host(self, x: np.ndarray, expert_index: int) -> np.ndarray:
        """Multiply x (rows, in) float32 by one matrix in numpy -> (rows, out)."""
        y = multiply(x, self.host_matrix(expert_index))
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


def gather_product(experts: mx.array, x: mx.array, matrices: mx.array) -> mx.array:
    """Multiply blocks x (B, rows, in) by matrices (E, in, out) of sorted experts."""
    return mx.gather_mm(x, matrices, rhs_indices=experts, sorted_indices=True)
