"""gpt-oss as an MLX module: token ids in, logits out; no files, text or sampling.

- Pre-norm residual stream with RMSNorm; embedding and unembedding are not tied.
- Grouped-query attention with biases, and one learned sink logit per head.
- Every other layer sees only the last 128 positions, including the current one.
- Rotary positions with YaRN, whose bounds are not rounded. The factor YaRN puts on cos
  and sin is folded into the attention scale.
- Mixture of experts with biases: a router picks T of E experts per token and weights
  them by a softmax over those T.
- Experts are SwiGLU with clamps: min(gate, 7), clip(up, -7, 7), and `up + 1`.
- Adapters (LoRA) may add a low-rank update to any matrix but the embedding, row by row.

Dimensions: B batch, L new tokens, S keys attended (cached and new), H query heads,
Hk key/value heads, D head dim, M hidden size, F intermediate size, E experts,
T experts per token, V vocabulary.

tests/support/oracle.py, float64 numpy, is the reference for the maths.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import SLIDING, ModelConfig
from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.adapters.passes import (
    ActiveAdapters,
    LayerUpdates,
    activate,
    compute_again,
)
from mlx_gptoss.model.adapters.stack import ArrangedUpdates, UpdateSource
from mlx_gptoss.model.attention import Masks
from mlx_gptoss.model.attention_block import Attention, Rows
from mlx_gptoss.model.documents import Documents
from mlx_gptoss.model.kv_cache import KVCache, KVPool, PackedRows, RowChunk
from mlx_gptoss.model.linear import make_embedding, make_linear, shrunk
from mlx_gptoss.model.mixture import MoE
from mlx_gptoss.model.rope import Rotation, make_rotation, yarn_periods


class Block(nn.Module):
    """One layer: attention, then experts, each added to the residual stream h."""

    def __init__(self, config: ModelConfig, structure: Structure, layer: int) -> None:
        super().__init__()
        M, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = nn.RMSNorm(M, eps)
        self.self_attn = Attention(config, structure, layer)
        self.post_attention_layernorm = nn.RMSNorm(M, eps)
        self.mlp = MoE(config.of_layer(layer), structure, layer)

    def __call__(
        self,
        h: mx.array,
        rotate: Rotation,
        masks: Masks,
        rows: Rows,
        lengths: Sequence[int],
        *,
        last: bool = False,
        updates: LayerUpdates | None = None,
    ) -> mx.array:
        h = h + self.self_attn(self.input_layernorm(h), rotate, masks, rows, updates)
        if last:  # earlier positions were needed only for their keys and values
            h = last_positions(h, lengths)
            updates = updates and updates.at_last_positions()
        return h + self.mlp(self.post_attention_layernorm(h), updates)


class Transformer(nn.Module):
    """Embedding, layers and final norm: the parameters a checkpoint names `model.*`."""

    def __init__(self, config: ModelConfig, structure: Structure) -> None:
        super().__init__()
        V, M = config.vocab_size, config.hidden_size
        quantization = structure.quantization.get("model.embed_tokens")
        self.embed_tokens = make_embedding(V, M, quantization)
        self.layers = [
            Block(config, structure, layer) for layer in range(config.num_hidden_layers)
        ]
        self.norm = nn.RMSNorm(M, config.rms_norm_eps)
        self.shrink = 1.0  # of the residual stream; see `residual`
        self._rotation = partial(
            make_rotation, yarn_periods(config), neighbours=config.is_classifier
        )

    def __call__(
        self,
        ids: mx.array,
        cache: KVCache | Sequence[KVCache] | None,
        *,
        lengths: Sequence[int] | None = None,
        last: bool = False,
        active: ActiveAdapters | None = None,
    ) -> mx.array:
        """Return the normed residual stream after the last layer; see `GptOss.hidden`.

        With `last`, the experts of the top layer, whose output no other position
        reads, see only the last token of each row.
        """
        rows: Rows = None
        if isinstance(cache, KVCache) and cache.base is not None:
            cache, lengths = [cache], ids.shape[1:]
        if isinstance(cache, Sequence) and (len(cache) > 1 or cache[0].base):
            rows = PackedRows(cache, lengths or [1] * len(cache))
            ids, lengths = rows.arrange(ids), rows.lengths
            assert ids.shape == (1, sum(lengths)), f"{ids.shape=} {lengths=}"
            rotate = self._rotation(rows.positions, 1)
            updates = active and active.for_rows(lengths, rows.order)
        elif cache is None and lengths is not None:
            rows = Documents(lengths)
            assert ids.shape == (1, sum(lengths)), f"{ids.shape=} {lengths=}"
            rotate = self._rotation(rows.positions, 1)
            updates = active and active.for_rows(lengths)
        else:
            own = cache[0] if isinstance(cache, Sequence) else cache
            lengths = ids.shape[1:]
            rotate = self._rotation(own.offset if own else 0, lengths[0])
            if own is not None:
                assert ids.shape[0] == 1, f"{ids.shape=}: a cache holds one sequence"
                rows = RowChunk(own, lengths[0])
            updates = active and active.for_rows(lengths * ids.shape[0])
        masks = Masks()
        # MLX decodes its block formats (mxfp4, nvfp4, ...) to bfloat16, which is exact.
        h = self.embed_tokens(ids).astype(self.norm.weight.dtype)
        h = shrunk(h, self.shrink)
        for layer, block in enumerate(self.layers):
            top = layer == len(self.layers) - 1
            run = partial(
                block,
                rotate=rotate,
                masks=masks,
                rows=rows,
                lengths=lengths,
                last=last and top,
            )
            own = updates and updates.layer(layer)
            if updates and own and updates.checkpointed:
                h = compute_again(run, h, own)
            else:
                h = run(h, updates=own)
        if isinstance(rows, PackedRows | RowChunk):
            rows.advance()
        h = self.norm(h)
        return rows.restore(h, last=last) if isinstance(rows, PackedRows) else h


def last_positions(h: mx.array, lengths: Sequence[int]) -> mx.array:
    """Return the last token of each row: (B, L, M) or packed (1, N, M) -> (B, R, M)."""
    if len(lengths) == 1:
        return h[:, -1:]
    if len(lengths) == h.shape[1]:
        return h
    return h[:, mx.array([end - 1 for end in accumulate(lengths)])]


class GptOss(nn.Module):
    """The whole model; `mlx_gptoss.checkpoint` loads its parameters."""

    def __init__(self, config: ModelConfig, structure: Structure) -> None:
        super().__init__()
        V, M = config.vocab_size, config.hidden_size
        self.config = config
        self.structure = structure
        self.model = Transformer(config, structure)
        quantization = structure.quantization.get("lm_head")
        self.lm_head = make_linear(M, V, quantization, bias=False)
        self._updates: ArrangedUpdates | None = None
        self.eval()  # `train()` avoids operations that have no gradient

    def __call__(
        self,
        ids: mx.array,
        cache: KVCache | None = None,
        *,
        adapters: Sequence[int] | None = None,
    ) -> mx.array:
        """Return float32 logits for every position: (B, L) int32 -> (B, L, V)."""
        hidden = self.hidden(ids, cache, adapters=adapters)
        return self.logits(hidden, adapters=adapters)

    def set_adapters(self, source: UpdateSource | None) -> None:
        """Load the adapters of a stack instead of those loaded so far; None: none.

        Their slots are what `hidden` and `logits` take. Evaluates. Peak: both.
        """
        self._updates = None if source is None else source.arrange(self.structure)

    def hidden(
        self,
        ids: mx.array,
        cache: KVCache | Sequence[KVCache] | None = None,
        *,
        lengths: Sequence[int] | None = None,
        last: bool = False,
        adapters: Sequence[int] | None = None,
    ) -> mx.array:
        """Return the input of `logits`; every token is appended to its cache.

        One cache: ids (1, L) int32 -> (1, L, M); with `last`, only the last position,
        (1, 1, M), which makes prefill cheaper. Without a cache ids may be (B, L), or,
        with `lengths`, documents packed one after another into (1, N), each of which
        attends only to itself.

        A sequence of R caches: R independent rows, packed one after another in ids
        (1, N): row r has `lengths[r]` tokens, by default one. -> (1, N, M); with
        `last`, the last token of each row, (1, R, M).

        `adapters` has the slot of each row, or one for all of them; 0 is no adapter.
        """
        return self.model(
            ids,
            cache,
            lengths=lengths,
            last=last,
            active=activate(self._updates, adapters),
        )

    def logits(
        self,
        hidden: mx.array,
        *,
        adapters: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> mx.array:
        """Unembed (..., M) -> (..., V) float32.

        `adapters` as in `hidden`: one slot, or one for each row of (R, L, M), or for
        each position of (1, R, M), or for `lengths` positions each.
        """
        y = self.lm_head(hidden)
        active = activate(self._updates, adapters)
        if active is not None:
            y = active.add_to_logits(hidden, y, lengths)
        return y.astype(mx.float32)

    def make_pool(self) -> KVPool:
        """Return an empty pool, whose caches are computed together without a copy."""
        sliding = [kind == SLIDING for kind in self.config.layer_types]
        return KVPool(sliding, self.config.sliding_window)

    def make_cache(self) -> KVCache:
        """Return an empty cache for one sequence, in a pool of its own."""
        return self.make_pool().make_cache()
