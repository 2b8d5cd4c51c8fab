"""The mixture of experts of one layer, with its router; knows nothing of attention.

Dimensions: B batch, L new tokens, N = B * L, M hidden size, E experts, T experts per
token.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.adapters.passes import LayerUpdates, updated
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.linear import make_linear


class MoE(nn.Module):
    """Mixture of experts of one layer, with its router: (B, L, M) -> (B, L, M)."""

    def __init__(self, config: ModelConfig, structure: Structure, layer: int) -> None:
        super().__init__()
        M, E = config.hidden_size, config.num_local_experts
        path = f"model.layers.{layer}.mlp"
        self.experts_per_token = config.num_experts_per_tok
        self.router = make_linear(M, E, structure.quantization.get(f"{path}.router"))
        self.experts = Experts(config, structure, f"{path}.experts")

    def __call__(self, x: mx.array, updates: LayerUpdates | None = None) -> mx.array:
        B, L, M = x.shape
        x = x.reshape(B * L, M)
        scores = updated(self.router(x), x, updates, "mlp.router")
        expert_indices, expert_weights = route(scores, self.experts_per_token)
        own = None if updates is None else updates.experts()
        return self.experts(x, expert_indices, expert_weights, own).reshape(B, L, M)


def route(router_logits: mx.array, T: int) -> tuple[mx.array, mx.array]:
    """Pick T of E experts per token: (N, E) -> indices and weights, (N, T) each.

    The indices are in no particular order; the weights are a softmax over the T logits.
    The weights have a gradient, the indices none.
    """
    E = router_logits.shape[-1]
    order = mx.argpartition(router_logits, kth=E - T, axis=-1)
    expert_indices = mx.stop_gradient(order[..., E - T :])
    top = mx.take_along_axis(router_logits, expert_indices, axis=-1)
    return expert_indices, mx.softmax(top, axis=-1, precise=True)
