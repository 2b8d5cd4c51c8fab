"""Experts decoded once to float32, for training on a CPU.

MLX multiplies packed experts on a CPU with scalar loops; decoded, an optimized BLAS
does, some ten times faster, in eight times the memory. Decoding is exact, so the
function that is trained is the same.
"""

import mlx.core as mx

from mlx_gptoss.model.experts.resident import Experts, Projection
from mlx_gptoss.model.gpt_oss import GptOss


def decode_experts(model: GptOss) -> None:
    """Replace the packed experts of every layer by dense ones.

    Peak: the model as it becomes, and one packed projection.
    """
    for block in model.model.layers:
        experts: Experts = block.mlp.experts
        for name, projection in experts.projections.items():
            if projection.quantization is not None:
                setattr(experts, name, decode_projection(projection, experts.count))
        mx.eval(experts.parameters())


def decode_projection(projection: Projection, count: int) -> Projection:
    """Return the same matrices, dense: weight float32 (E, in, out)."""
    matrices = [projection.dequantize(expert) for expert in range(count)]
    inputs, outputs = matrices[0].shape
    dense = Projection(0, inputs, outputs, None)
    dense.weight = mx.stack(matrices)
    dense.bias = projection.bias
    return dense
