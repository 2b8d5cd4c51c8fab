"""The attention of one layer, with its projections; knows nothing of other layers.

Dimensions: B batch, L new tokens, N packed tokens, S keys attended, H query heads,
Hk key/value heads, D head dim, M hidden size.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import BAND, FULL, ModelConfig
from mlx_gptoss.format.layout import Structure, fuses_qkv
from mlx_gptoss.model.adapters.passes import LayerUpdates, updated
from mlx_gptoss.model.attention import Masks, attend, attend_padded, attend_shared
from mlx_gptoss.model.documents import Documents
from mlx_gptoss.model.kv_cache import PackedRows, RowChunk, Span, Spans
from mlx_gptoss.model.linear import make_linear, shrunk
from mlx_gptoss.model.rope import Rotation, attention_scale

# The rows of a forward pass: those of packed caches, of one cache, packed documents
# without a cache, or none of these.
Rows = PackedRows | RowChunk | Documents | None


class Attention(nn.Module):
    """Grouped-query attention of one layer: (B, L, M) -> (B, L, M)."""

    def __init__(self, config: ModelConfig, structure: Structure, layer: int) -> None:
        super().__init__()
        M, D = config.hidden_size, config.head_dim
        H, Hk = config.num_attention_heads, config.num_key_value_heads
        self.layer = layer
        self.heads = (H, Hk, D)
        self.scale = attention_scale(config)
        kind, window = config.layer_types[layer], config.sliding_window
        self.window = None if kind == FULL else window
        self.ahead = 0
        if kind == BAND:  # as many either way, and the position itself
            self.window, self.ahead = window + 1, window

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
        self.shrink = 1.0  # of what is given to `o_proj`; see `residual`

    def __call__(
        self,
        x: mx.array,
        rotate: Rotation,
        masks: Masks,
        rows: Rows,
        updates: LayerUpdates | None = None,
    ) -> mx.array:
        B, L, _ = x.shape
        H, Hk, D = self.heads
        qkv = self.project_qkv(x, updates)
        if isinstance(rows, PackedRows | Documents):
            # Every token is a row of one position, (N, H + 2 Hk, 1, D).
            qkv = qkv.reshape(B * L, H + 2 * Hk, 1, D)
        else:
            qkv = qkv.reshape(B, L, H + 2 * Hk, D).swapaxes(1, 2)
        qk = rotate(qkv[:, : H + Hk])  # queries and keys in one call
        q, k, v = qk[:, :H], qk[:, H:], qkv[:, H + Hk :]
        if isinstance(rows, PackedRows):
            spans = rows.update(self.layer, k, v)
            outputs = [self.attend_spans(q, each, masks) for each in spans]
            y = join(outputs)  # (N, H, 1, D)
        elif isinstance(rows, Documents):
            y = rows.attend(q, k, v, lambda q, k, v: self.attend(q, k, v, masks))
        else:
            if rows is not None:
                k, v = rows.update(self.layer, k, v)  # (1, Hk, S, D)
            y = self.attend(q, k, v, masks).swapaxes(1, 2)  # (B, L, H, D)
        y = shrunk(y.reshape(B, L, H * D), self.shrink)
        return updated(self.o_proj(y), y, updates, "self_attn.o_proj")

    def project_qkv(self, x: mx.array, updates: LayerUpdates | None = None) -> mx.array:
        """Project to q, k and v side by side: (B, L, M) -> (B, L, (H + 2 Hk) D)."""
        if self.fused:
            return updated(self.qkv_proj(x), x, updates, "self_attn.qkv_proj")
        qkv = [
            updated(self[name](x), x, updates, f"self_attn.{name}")
            for name in ("q_proj", "k_proj", "v_proj")
        ]
        return mx.concatenate(qkv, axis=-1)

    def attend(self, q: mx.array, k: mx.array, v: mx.array, masks: Masks) -> mx.array:
        """Attend the queries of each row to its keys: -> (B, H, L, D)."""
        return attend(
            q,
            k,
            v,
            scale=self.scale,
            sinks=self.sinks,
            window=self.window,
            masks=masks,
            lazy=self.training,
            ahead=self.ahead,
        )

    def attend_spans(self, q: mx.array, group: Spans, masks: Masks) -> mx.array:
        """Attend some of the packed queries (N, H, 1, D) to their own rows' keys."""
        q = q[group.tokens]
        if group.spread is not None:
            q = q[group.spread]
        outputs = []
        for span in group.spans:
            outputs.append(self.attend_span(q[span.tokens], span, masks))
        y = join(outputs)
        return y if group.gather is None else y[group.gather]

    def attend_span(self, q: mx.array, span: Span, masks: Masks) -> mx.array:
        """Attend the queries (N, H, 1, D) of one view of a slab."""
        k, v, lengths = span.keys, span.values, span.lengths
        if lengths is None:
            return self.attend(q.swapaxes(0, 2), k, v, masks).swapaxes(0, 2)
        how = {"scale": self.scale, "sinks": self.sinks, "masks": masks}
        if span.base is None:
            return attend_padded(q, k, v, lengths, **how)
        return attend_shared(q, span.base, k, v, lengths, **how)


def join(parts: Sequence[mx.array]) -> mx.array:
    """Concatenate; a single array is returned as it is."""
    return parts[0] if len(parts) == 1 else mx.concatenate(list(parts))
