"""Keep the residual stream within float16, whose largest number is 65,504.

Activations of gpt-oss-120b pass that at layer 35. Only RMSNorm reads the stream, and it
does not see a factor s if its epsilon is multiplied by s². So all that is written into
the stream is multiplied by a power of two, s = 2^-k: the embedding, what `o_proj` and
`down_proj` are given, and their biases. Matrices stay as they are, also mapped and
streamed ones. A product with a power of two is exact but for numbers that become
subnormal: of them at most 2^-25 is lost, 2^(k-25) of the stream.

The stream is bounded from the weights, by the inequality of Cauchy and Schwarz: a row w
of a matrix gives at most |w|₂ |x|₂, and

- a normed vector has the norm √M at most, before the weight of the norm;
- attention averages values (its weights and the sink's sum to 1);
- an activation of SwiGLU with clamps at L is at most L (L + 1);
- the experts of a token are averaged, too.

Adapters are not in the bound: their updates are scaled with the rest, and logits that
are not finite end an answer with an error.

Dimensions: M hidden size, F intermediate size, E experts, D head dim.
"""

from collections.abc import Callable
from math import ceil, log2, sqrt
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig, Quantization
from mlx_gptoss.model.attention_block import Attention
from mlx_gptoss.model.experts.projection import Projection
from mlx_gptoss.model.gpt_oss import Transformer

LARGEST = 65_504 * 0.98  # of float16, less what its roundings may add
MOST_HALVINGS = 12  # beyond it more than 2^-13 of the stream may be lost
ROWS_AT_ONCE = 4096  # of the embedding

RowNorms = Callable[[int], mx.array]  # layer -> (E, M)


def fit_residual(
    model: Transformer, config: ModelConfig, down_norms: RowNorms | None = None
) -> int:
    """Scale what a loaded model writes into its residual stream; return k.

    `down_norms(layer)` bounds the norms of the rows of `down_proj` where its matrices
    are not all in memory. Raises CheckpointError if the stream may grow too large.
    """
    bound = residual_bound(model, config, down_norms)
    k = max(0, ceil(log2(bound / LARGEST)))
    if k > MOST_HALVINGS:
        raise CheckpointError(
            f"the weights allow activations of {bound:.1e}, which float16 cannot hold "
            "well: use bfloat16"
        )
    if k:
        shrink_residual(model, k)
    return k


def shrink_residual(model: Transformer, k: int) -> None:
    """Multiply all that is written into the residual stream by 2^-k."""
    s = 2.0**-k
    model.shrink = s
    model.norm.eps *= s * s
    for block in model.layers:
        attention, experts = block.self_attn, block.mlp.experts
        attention.shrink = experts.shrink = s
        attention.o_proj["bias"] *= s
        experts.down_proj.bias *= s
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.eps *= s * s
        mx.eval(attention.o_proj.bias, experts.down_proj.bias)


def residual_bound(
    model: Transformer, config: ModelConfig, down_norms: RowNorms | None = None
) -> float:
    """Return a number that no value of the residual stream passes."""
    norms = down_norms or (lambda n: expert_norms(layers[n].mlp.experts.down_proj))
    layers = model.layers
    total = largest_rows(model.embed_tokens)
    for n, block in enumerate(layers):
        limit = config.of_layer(n).swiglu_limit
        activation = limit * (limit + 1) * sqrt(config.of_layer(n).intermediate_size)
        bias = mx.abs(block.mlp.experts.down_proj.bias.astype(mx.float32))
        experts = mx.max(norms(n) * activation + bias, axis=0)  # (M,)
        total = total + attention_bound(block) + experts
        mx.eval(total)
    return float(np.asarray(total).max())


def attention_bound(block: Any) -> mx.array:
    """Bound what attention adds to each value of the stream: (M,)."""
    attention = block.self_attn
    H, Hk, _ = attention.heads
    weight, bias = value_rows(attention)
    M = weight.shape[1]
    gain = block.input_layernorm["weight"].astype(mx.float32)
    values = row_norms(weight * gain) * sqrt(M) + mx.abs(bias)  # (Hk D,)
    given = mx.sqrt(mx.square(values).sum() * (H // Hk))
    added = mx.abs(attention.o_proj.bias.astype(mx.float32))
    return row_norms(matrix(attention.o_proj)) * given + added


def value_rows(attention: Attention) -> tuple[mx.array, mx.array]:
    """Return the rows of the values' projection, (Hk D, M) float32, and its bias."""
    _, Hk, D = attention.heads
    layer: Any = attention.qkv_proj if attention.fused else attention.v_proj
    rows = slice(-Hk * D, None)
    return matrix(layer)[rows], layer.bias[rows].astype(mx.float32)


def matrix(layer: Any) -> mx.array:
    """Return the weight of a linear layer or an embedding in float32."""
    if "scales" not in layer:
        return layer.weight.astype(mx.float32)
    return mx.dequantize(
        layer.weight,
        layer.scales,
        layer.get("biases"),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        dtype=mx.float32,
    )


def row_norms(rows: mx.array) -> mx.array:
    """Return the Euclidean norms of rows: (..., R, C) -> (..., R)."""
    return mx.sqrt(mx.square(rows).sum(axis=-1))


def largest_rows(embedding: Any) -> mx.array:
    """Return the largest value of each column of an embedding: (V, M) -> (M,)."""
    largest = mx.array(0.0)
    for start in range(0, embedding.weight.shape[0], ROWS_AT_ONCE):
        ids = mx.arange(start, min(start + ROWS_AT_ONCE, embedding.weight.shape[0]))
        rows = mx.abs(embedding(ids).astype(mx.float32))
        largest = mx.maximum(largest, mx.max(rows, axis=0))
        mx.eval(largest)
    return largest


def expert_norms(projection: Projection) -> mx.array:
    """Bound the norms of the rows of E matrices: (E, out)."""
    how = projection.quantization
    if how is None:
        squares = [
            mx.square(projection.weight[e : e + 1].astype(mx.float32)).sum(axis=1)
            for e in range(projection.weight.shape[0])
        ]
        return mx.sqrt(mx.concatenate(squares))
    return group_norms(how, projection.scales, projection.get("biases"))


def group_norms(
    how: Quantization, scales: mx.array, biases: mx.array | None
) -> mx.array:
    """Bound the norms of quantized rows from their scales: (..., groups) -> (...).

    Every code may be the largest of its format (6 of MXFP4 and NVFP4, 448 of MXFP8).
    """
    if how.is_affine:
        assert biases is not None
        low = mx.abs(biases.astype(mx.float32))
        steps = scales.astype(mx.float32) * (2**how.bits - 1)
        largest = mx.maximum(low, mx.abs(biases.astype(mx.float32) + steps))
    elif how.mode == "nvfp4":
        largest = mx.from_fp8(scales, mx.float32) * 6
    else:
        code = {"mxfp4": 6, "mxfp8": 448}[how.mode]
        largest = code * mx.power(2.0, scales.astype(mx.float32) - 127)
    return row_norms(largest) * sqrt(how.group_size)
