"""Linear layers and embeddings, dense or quantized; knows nothing of models.

They are MLX's own layers, so tools that modify those (adapters, for example) work.
Only long inputs on a CPU differ: see `should_dequantize`.
"""

from collections.abc import Callable
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import Quantization
from mlx_gptoss.model.blas import preload_blas
from mlx_gptoss.model.device import as_now, use_gpu_paths

# MLX's quantized products on a CPU are scalar loops that read the matrix again for each
# row. Dequantizing it costs as much as 4 to 6 rows; an optimized BLAS then multiplies
# hundreds of rows in the time of one.
DEQUANTIZE_MIN_ROWS = 8


def should_dequantize(rows: int, dtype: mx.Dtype) -> bool:
    """Return whether to dequantize a matrix before multiplying so many rows by it."""
    return (
        rows >= DEQUANTIZE_MIN_ROWS
        and dtype == mx.float32  # the only dtype the BLAS multiplies
        and not use_gpu_paths()
        and preload_blas().optimized
    )


class QuantizedLinear(nn.QuantizedLinear):
    """A quantized linear layer that dequantizes its weight for long inputs on a CPU."""

    def __call__(self, x: mx.array) -> mx.array:
        if not should_dequantize(x.size // x.shape[-1], x.dtype):
            return super().__call__(x)
        if self.training:
            y = multiply_decoding(x, self._weight_after, mx.matmul)
            return y + self.bias if "bias" in self else y
        weight = self._dequantized(self.weight)
        return mx.addmm(self.bias, x, weight.T) if "bias" in self else x @ weight.T

    def _dequantized(self, weight: mx.array) -> mx.array:
        return mx.dequantize(
            weight,
            self.scales,
            self.get("biases"),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=mx.float32,
        )

    def _weight_after(self, x: mx.array) -> mx.array:
        return self._dequantized(mx.depends(self.weight, x))


def multiply_decoding(
    x: mx.array,
    decode: Callable[[mx.array], mx.array],
    multiply: Callable[[mx.array, mx.array], mx.array],
) -> mx.array:
    """Multiply by matrices that are decoded for the product and again for its gradient.

    `decode(x)` returns them (..., out, in), decoded no earlier than x is computed: so
    that those of one layer are held at a time, and none till the gradient.
    `multiply(x, matrices)` takes them (..., in, out).
    """

    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        return multiply(x, decode(x).swapaxes(-1, -2))

    @product.vjp
    @as_now
    def gradient(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return multiply(cotangent, decode(cotangent))

    return cast(mx.array, product(x))


def shrunk(x: mx.array, factor: float) -> mx.array:
    """Return x multiplied by a factor; x itself if that is 1."""
    return x if factor == 1 else x * factor


def make_linear(
    inputs: int, outputs: int, quantization: Quantization | None, *, bias: bool = True
) -> nn.Module:
    """Make a linear layer: (..., inputs) -> (..., outputs)."""
    if quantization is None:
        return nn.Linear(inputs, outputs, bias)
    return QuantizedLinear(
        inputs,
        outputs,
        bias,
        quantization.group_size,
        quantization.bits,
        quantization.mode,
    )


def make_embedding(
    rows: int, size: int, quantization: Quantization | None
) -> nn.Module:
    """Make an embedding: ids (...) -> (..., size)."""
    if quantization is None:
        return nn.Embedding(rows, size)
    return nn.QuantizedEmbedding(
        rows, size, quantization.group_size, quantization.bits, quantization.mode
    )
