"""gpt-oss: token ids in, logits out; knows nothing of files, text or sampling.

- Pre-norm residual stream, RMSNorm, untied embedding and unembedding.
- Grouped-query attention with biases, and one learned sink logit a head.
- Every other layer sees only the last 128 positions, the current one included.
- Rotary positions with YaRN, its bounds not rounded; the factor YaRN puts on cos and
  sin is folded into the attention scale.
- Mixture of experts with biases: a router picks T of E experts, softmax over those T.
- Experts are SwiGLU with a clamp: min(gate, 7), clip(up, -7, 7), and `up + 1`.

Dimensions: B batch, L new tokens, S keys attended, H query heads, Hk key/value heads,
D head dim, M hidden size, F intermediate size, E experts, T experts per token,
V vocabulary.

The maths is judged by tests/support/oracle.py.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import SLIDING, ModelConfig
from mlx_gptoss.format.layout import Structure, fuses_qkv
from mlx_gptoss.model.attention import Masks, attend, attend_padded
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.kv_cache import FullCache, KVCache, WindowCache, stack_caches
from mlx_gptoss.model.linear import make_embedding, make_linear
from mlx_gptoss.model.rope import Rotation, attention_scale, make_rotation, yarn_periods

LayerCache = FullCache | WindowCache

STACKED_MAX_KEYS = 768  # keys of a row that are still copied to be attended with others


class Attention(nn.Module):
    """Grouped-query attention of one layer."""

    def __init__(self, config: ModelConfig, structure: Structure, layer: int) -> None:
        super().__init__()
        M, D = config.hidden_size, config.head_dim
        H, Hk = config.num_attention_heads, config.num_key_value_heads
        self.heads = (H, Hk, D)
        self.scale = attention_scale(config)
        sliding = config.layer_types[layer] == SLIDING
        self.window = config.sliding_window if sliding else None

        path = f"model.layers.{layer}.self_attn"
        q, k, v, o = (structure.quantization.get(f"{path}.{x}_proj") for x in "qkvo")
        self.fused = fuses_qkv(structure, layer)
        if self.fused:
            self.qkv_proj = make_linear(M, (H + 2 * Hk) * D, q)
        else:
            self.q_proj = make_linear(M, H * D, q)
            self.k_proj = make_linear(M, Hk * D, k)
            self.v_proj = make_linear(M, Hk * D, v)
        self.o_proj = make_linear(H * D, M, o)
        self.sinks = mx.zeros((H,))

    def __call__(
        self,
        x: mx.array,
        rotate: Rotation,
        masks: Masks,
        cache: LayerCache | Sequence[LayerCache] | None,
    ) -> mx.array:
        B, L, _ = x.shape
        H, Hk, D = self.heads
        qkv = self.project(x).reshape(B, L, H + 2 * Hk, D).swapaxes(1, 2)
        qk = rotate(qkv[:, : H + Hk])  # (B, H + Hk, L, D): all in one go
        q, k, v = qk[:, :H], qk[:, H:], qkv[:, H + Hk :]
        y = self.attend(q, k, v, masks, cache)  # (B, H, L, D)
        return self.o_proj(y.swapaxes(1, 2).reshape(B, L, H * D))

    def attend(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        masks: Masks,
        cache: LayerCache | Sequence[LayerCache] | None,
    ) -> mx.array:
        """Attend to what the cache holds and to the new keys: -> (B, H, L, D)."""
        if isinstance(cache, Sequence):
            return self.attend_batch(q, k, v, masks, cache)
        if cache is not None:
            k, v = cache.update(k, v)  # (B, Hk, S, D)
        return attend(
            q,
            k,
            v,
            scale=self.scale,
            sinks=self.sinks,
            window=self.window,
            masks=masks,
        )

    def attend_batch(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        masks: Masks,
        caches: Sequence[LayerCache],
    ) -> mx.array:
        """Attend each row to its own cache: short ones together, long ones alone.

        Copying keys side by side costs their bytes, and saves a row its operations.
        """
        if len(caches) == 1:
            return self.attend(q, k, v, masks, caches[0])
        if q.shape[2] > 1 or any(own.length >= STACKED_MAX_KEYS for own in caches):
            half = len(caches) // 2  # halves of halves, down to a long row alone
            parts = (slice(0, half), slice(half, None))
            return mx.concatenate(
                [self.attend(q[n], k[n], v[n], masks, caches[n]) for n in parts]
            )
        held = []
        for b, own in enumerate(caches):
            own.update(k[b : b + 1], v[b : b + 1])
            held.append(own.length)
        keys, values = stack_caches(caches)  # (B, Hk, S, D)
        return attend_padded(
            q, keys, values, held, scale=self.scale, sinks=self.sinks, masks=masks
        )

    def project(self, x: mx.array) -> mx.array:
        """Return q, k and v of every position side by side."""
        if self.fused:
            return self.qkv_proj(x)
        return mx.concatenate([self.q_proj(x), self.k_proj(x), self.v_proj(x)], axis=-1)


class MoE(nn.Module):
    """A router and its experts."""

    def __init__(self, config: ModelConfig, structure: Structure, layer: int) -> None:
        super().__init__()
        M, E = config.hidden_size, config.num_local_experts
        path = f"model.layers.{layer}.mlp"
        self.experts_per_token = config.num_experts_per_tok
        self.router = make_linear(M, E, structure.quantization.get(f"{path}.router"))
        self.experts = Experts(config, structure, f"{path}.experts")

    def __call__(self, x: mx.array) -> mx.array:
        B, L, M = x.shape
        x = x.reshape(B * L, M)
        expert_indices, expert_weights = route(self.router(x), self.experts_per_token)
        return self.experts(x, expert_indices, expert_weights).reshape(B, L, M)


def route(router_logits: mx.array, T: int) -> tuple[mx.array, mx.array]:
    """Return the best T of (N, E) scores, in any order, and the softmax over those."""
    E = router_logits.shape[-1]
    expert_indices = mx.argpartition(router_logits, kth=E - T, axis=-1)[..., E - T :]
    best = mx.take_along_axis(router_logits, expert_indices, axis=-1)
    return expert_indices, mx.softmax(best, axis=-1, precise=True)


class Block(nn.Module):
    """One layer: attention, then experts, each added to the residual stream."""

    def __init__(self, config: ModelConfig, structure: Structure, layer: int) -> None:
        super().__init__()
        M, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = nn.RMSNorm(M, eps)
        self.self_attn = Attention(config, structure, layer)
        self.post_attention_layernorm = nn.RMSNorm(M, eps)
        self.mlp = MoE(config, structure, layer)

    def __call__(
        self,
        h: mx.array,
        rotate: Rotation,
        masks: Masks,
        cache: LayerCache | Sequence[LayerCache] | None,
        *,
        last: bool = False,
    ) -> mx.array:
        h = h + self.self_attn(self.input_layernorm(h), rotate, masks, cache)
        if last:
            h = h[:, -1:]  # the others were needed for their keys and values
        return h + self.mlp(self.post_attention_layernorm(h))


class Transformer(nn.Module):
    """Embedding, layers and final norm: what a checkpoint names `model.*`."""

    def __init__(self, config: ModelConfig, structure: Structure) -> None:
        super().__init__()
        V, M = config.vocab_size, config.hidden_size
        quantization = structure.quantization.get("model.embed_tokens")
        self.embed_tokens = make_embedding(V, M, quantization)
        self.layers = [
            Block(config, structure, layer) for layer in range(config.num_hidden_layers)
        ]
        self.norm = nn.RMSNorm(M, config.rms_norm_eps)
        self._periods = yarn_periods(config)

    def __call__(
        self,
        ids: mx.array,
        cache: KVCache | Sequence[KVCache] | None,
        *,
        last: bool = False,
    ) -> mx.array:
        """Return the final normed residual stream: (B, L) -> (B, L, M).

        With `last`, only that of the last position, (B, 1, M): the experts of the
        last layer, which no later position reads, are spared for the others.
        """
        if isinstance(cache, Sequence):
            offset = [own.offset for own in cache]
            caches = list(zip(*(own.layers for own in cache), strict=True))
        else:
            offset = 0 if cache is None else cache.offset
            caches = cache or [None] * len(self.layers)
        rotate = make_rotation(self._periods, offset, ids.shape[1])
        masks = Masks()
        h = self.embed_tokens(ids)
        for layer, (block, kept) in enumerate(zip(self.layers, caches, strict=True)):
            top = layer == len(self.layers) - 1
            h = block(h, rotate, masks, kept, last=last and top)
        return self.norm(h)


class GptOss(nn.Module):
    """The whole model; parameters are made by `mlx_gptoss.checkpoint`."""

    def __init__(self, config: ModelConfig, structure: Structure) -> None:
        super().__init__()
        V, M = config.vocab_size, config.hidden_size
        self.config = config
        self.model = Transformer(config, structure)
        quantization = structure.quantization.get("lm_head")
        self.lm_head = make_linear(M, V, quantization, bias=False)
        self.eval()  # `train()` keeps to what can be differentiated

    def __call__(self, ids: mx.array, cache: KVCache | None = None) -> mx.array:
        """Return float32 logits of every position: (B, L) int32 -> (B, L, V)."""
        return self.logits(self.hidden(ids, cache))

    def hidden(
        self,
        ids: mx.array,
        cache: KVCache | Sequence[KVCache] | None = None,
        *,
        last: bool = False,
    ) -> mx.array:
        """Return what `logits` reads: (B, L) int32 -> (B, L, M); `last`: (B, 1, M).

        Rows that are sequences of their own have a cache each.
        In prefill only the last position is due, and asking for no more is cheaper.
        """
        return self.model(ids, cache, last=last)

    def logits(self, hidden: mx.array) -> mx.array:
        """Unembed (..., M) -> (..., V) float32."""
        return self.lm_head(hidden).astype(mx.float32)

    def make_cache(self) -> KVCache:
        """Return an empty cache for one sequence, or for a batch of equal lengths."""
        window = self.config.sliding_window
        return KVCache(
            [
                WindowCache(window) if kind == SLIDING else FullCache()
                for kind in self.config.layer_types
            ]
        )
