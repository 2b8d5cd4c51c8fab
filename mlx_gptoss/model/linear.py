"""Linear layers and embeddings, dense or packed; knows nothing of models.

They are MLX's own layers, so that tools for those (adapters, for one) see what they
know. Only prefill on a CPU differs: see `decoding_pays`.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import Quantization
from mlx_gptoss.model.blas import preload_blas
from mlx_gptoss.model.device import use_gpu_paths

# MLX's packed products on a CPU are scalar loops that read the matrix anew for each
# row. Decoding it once costs as much as 4 to 6 rows; an optimized BLAS then does
# hundreds of rows in the time of one.
DEQUANTIZE_MIN_ROWS = 8


def should_dequantize(rows: int, dtype: mx.Dtype) -> bool:
    """Say whether to decode a packed matrix before it meets so many rows."""
    return (
        rows >= DEQUANTIZE_MIN_ROWS
        and dtype == mx.float32  # the only one a BLAS multiplies
        and not use_gpu_paths()
        and preload_blas().optimized
    )


class PackedLinear(nn.QuantizedLinear):
    """A quantized linear layer; on a CPU long inputs meet the decoded weight."""

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
    return PackedLinear(
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
