"""Linear layers and embeddings, dense or quantized; knows nothing of models.

They are MLX's own layers, so tools that modify those (adapters, for example) work.
Only prefill on a CPU differs: see `should_dequantize`.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import Quantization
from mlx_gptoss.model.blas import preload_blas
from mlx_gptoss.model.device import use_gpu_paths

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
        if self.training or not should_dequantize(x.size // x.shape[-1], x.dtype):
            return super().__call__(x)
        weight = mx.dequantize(
            self.weight,
            self.scales,
            self.get("biases"),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=x.dtype,
        )
        return mx.addmm(self.bias, x, weight.T) if "bias" in self else x @ weight.T


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
