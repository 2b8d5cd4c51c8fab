"""The reference: gpt-oss and MXFP4 in float64 numpy, written to be read.

Imports neither MLX nor this package. Slow and plain on purpose: whatever the package
computes must agree with this file.

    rows = logits(tensors, config, ids)     # HF names, config.json, (L,) -> (L, V)

`tensors` are numpy arrays under Hugging Face's names: experts as uint8 `*_blocks`,
`*_scales` and float `*_bias`, or dense as float `experts.gate_up_proj` [E, in, out].

Dimensions: L tokens, H query heads, Hk key/value heads, D head dim, M hidden size,
F intermediate size, E experts, T experts per token, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]
Config = Mapping[str, Any]

FP4_VALUES = np.array(
    [+0.0, +0.5, +1.0, +1.5, +2.0, +3.0, +4.0, +6.0,
     -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
)  # fmt: skip
E8M0_BIAS = 127
SWISH_SLOPE = 1.702


def logits(tensors: Tensors, config: Config, ids: Sequence[int]) -> np.ndarray:
    """Run the whole model over `ids` at once: (L,) -> (L, V)."""
    h = _floats(tensors, "model.embed_tokens.weight")[np.asarray(ids)]  # (L, M)
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        x = rms_norm(h, tensors, config, layer + "input_layernorm")
        h = h + attention(x, tensors, config, n)
        x = rms_norm(h, tensors, config, layer + "post_attention_layernorm")
        h = h + mixture_of_experts(x, tensors, config, n)
    h = rms_norm(h, tensors, config, "model.norm")
    return h @ _floats(tensors, "lm_head.weight").T


def rms_norm(x: np.ndarray, tensors: Tensors, config: Config, name: str) -> np.ndarray:
    """Divide by the root mean square of each row, multiply by the weight."""
    mean_square = (x**2).mean(-1, keepdims=True)
    weight = _floats(tensors, name + ".weight")
    return x / np.sqrt(mean_square + config["rms_norm_eps"]) * weight


def attention(x: np.ndarray, tensors: Tensors, config: Config, n: int) -> np.ndarray:
    """Grouped-query attention with sinks: (L, M) -> (L, M)."""
    prefix = f"model.layers.{n}.self_attn."
    H, Hk, D = (
        config[key]
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    L = len(x)
    q = linear(x, tensors, prefix + "q_proj").reshape(L, H, D)
    k = linear(x, tensors, prefix + "k_proj").reshape(L, Hk, D)
    v = linear(x, tensors, prefix + "v_proj").reshape(L, Hk, D)
    q, k = rotate(q, config), rotate(k, config)
    sinks = _floats(tensors, prefix + "sinks")

    t, p = np.arange(L)[:, None], np.arange(L)[None, :]
    visible = p <= t
    if config["layer_types"][n] == "sliding_attention":
        visible &= p > t - config["sliding_window"]  # the current token is one of them

    mixed = np.empty((L, H, D))
    for head in range(H):
        kv_head = head // (H // Hk)
        scores = q[:, head] @ k[:, kv_head].T / np.sqrt(D)  # (L, L)
        scores = np.where(visible, scores, -np.inf)
        # The sink is one more logit, neither scaled nor rotated; its weight is dropped.
        highest = np.maximum(scores.max(-1, keepdims=True), sinks[head])
        weights = np.exp(scores - highest)
        total = weights.sum(-1, keepdims=True) + np.exp(sinks[head] - highest)
        mixed[:, head] = weights / total @ v[:, kv_head]
    return linear(mixed.reshape(L, H * D), tensors, prefix + "o_proj")


def rotate(x: np.ndarray, config: Config) -> np.ndarray:
    """Rotate pairs (i, i + D/2) of each head by position: (L, heads, D)."""
    L, _, D = x.shape
    inverse, magnitude = yarn(config)
    angles = np.arange(L)[:, None, None] * inverse  # (L, 1, D/2)
    cos, sin = magnitude * np.cos(angles), magnitude * np.sin(angles)
    first, second = x[..., : D // 2], x[..., D // 2 :]
    return np.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )


def yarn(config: Config) -> tuple[np.ndarray, float]:
    """Return inverse frequencies (D/2,) and the factor on both cos and sin.

    YaRN, "NTK by parts" (arXiv 2309.00071): fast pairs keep their frequency, slow
    ones are divided by `factor`, and between the two lies a ramp.
    """
    half, base = config["head_dim"] // 2, config["rope_theta"]
    frequency = base ** (np.arange(half) / half)
    scaling = config.get("rope_scaling")
    if scaling is None:
        return 1 / frequency, 1.0

    def pair_of(rotations: float) -> float:
        """Return the (real-numbered) pair that turns so often in that context."""
        context = scaling["original_max_position_embeddings"]
        return half * np.log(context / (rotations * 2 * np.pi)) / np.log(base)

    low, high = pair_of(scaling["beta_fast"]), pair_of(scaling["beta_slow"])
    if scaling["truncate"]:
        low, high = np.floor(low), np.ceil(high)
    ramp = np.clip((np.arange(half) - low) / (high - low), 0, 1)
    factor = scaling["factor"]
    inverse = ramp / (factor * frequency) + (1 - ramp) / frequency
    return inverse, 0.1 * np.log(factor) + 1


def mixture_of_experts(
    x: np.ndarray, tensors: Tensors, config: Config, n: int
) -> np.ndarray:
    """Apply the T best experts to each token: (L, M) -> (L, M)."""
    prefix = f"model.layers.{n}.mlp."
    scores = linear(x, tensors, prefix + "router")  # (L, E)
    T = config["num_experts_per_tok"]
    expert_indices = np.argsort(-scores, axis=-1, kind="stable")[:, :T]
    expert_weights = softmax(
        np.take_along_axis(scores, expert_indices, axis=-1)
    )  # over the T logits only

    up_weights, up_bias = expert_tensors(tensors, prefix + "experts.gate_up_proj")
    down_weights, down_bias = expert_tensors(tensors, prefix + "experts.down_proj")
    y = np.zeros_like(x)
    for expert in range(len(up_bias)):
        tokens, place = np.nonzero(expert_indices == expert)
        z = x[tokens] @ up_weights[expert].T + up_bias[expert]  # (tokens, 2F)
        z = swiglu(z, config["swiglu_limit"])
        z = z @ down_weights[expert].T + down_bias[expert]
        y[tokens] += expert_weights[tokens, place, None] * z
    return y


def swiglu(z: np.ndarray, limit: float) -> np.ndarray:
    """Even columns gate odd ones: (..., 2F) -> (..., F)."""
    gate = np.minimum(z[..., 0::2], limit)  # from above only
    up = np.clip(z[..., 1::2], -limit, limit)
    return gate / (1 + np.exp(-SWISH_SLOPE * gate)) * (up + 1)


def expert_tensors(tensors: Tensors, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the stacked weights [E, out, in] and biases [E, out]."""
    bias = _floats(tensors, name + "_bias")
    if name in tensors:
        return _floats(tensors, name).swapaxes(1, 2), bias
    return mxfp4_decode(tensors[name + "_blocks"], tensors[name + "_scales"]), bias


def mxfp4_decode(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Decode uint8 blocks (..., G, 16) and scales (..., G) to values (..., 32 G).

    Each byte holds two values, the low nibble first; a scale byte is an exponent.
    """
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1)  # (..., G, 16, 2)
    values = FP4_VALUES[codes] * 2.0 ** (scales[..., None, None] - float(E8M0_BIAS))
    return values.reshape(*scales.shape[:-1], -1)


def linear(x: np.ndarray, tensors: Tensors, name: str) -> np.ndarray:
    """Multiply by a weight [out, in] and add its bias."""
    weight = _floats(tensors, name + ".weight")
    return x @ weight.T + _floats(tensors, name + ".bias")


def softmax(x: np.ndarray) -> np.ndarray:
    """Normalise over the last axis."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _floats(tensors: Tensors, name: str) -> np.ndarray:
    return tensors[name].astype(np.float64)
