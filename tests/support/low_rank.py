"""Random adapters in numpy, and the dense model that has them in its weights.

updates = random_updates(config, seed=1)             # path: (a, b)
adapter = as_adapter("mine", updates)
expected = oracle.logits(merged(tensors, config, updates), config, ids)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.adapters import Adapter, LowRank
from mlx_gptoss.model.adapters.adapter import updates_digest
from mlx_gptoss.model.adapters.trainable import SEPARATOR, TrainableUpdates
from tests.support import oracle

Updates = dict[str, tuple[np.ndarray, np.ndarray]]

# Sizes of updates by input and output, and what they are called on the command line.
ATTENTION = tuple(f"self_attn.{x}_proj" for x in "qkvo")
ROUTER = ("mlp.router",)
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
LM_HEAD = ("lm_head",)
EVERYTHING = (*ATTENTION, *ROUTER, *EXPERTS, *LM_HEAD)

STRENGTH = 0.3  # output rms of an update for an input of rms 1


def weight_shape(config: Mapping[str, Any], module: str) -> tuple[int, ...]:
    """Return (out, in), or (E, out, in), of a module named without its layer."""
    M, F, E = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_local_experts")
    )
    D = config["head_dim"]
    Q, K = (config[key] * D for key in ("num_attention_heads", "num_key_value_heads"))
    return {
        "self_attn.q_proj": (Q, M),
        "self_attn.k_proj": (K, M),
        "self_attn.v_proj": (K, M),
        "self_attn.o_proj": (M, Q),
        "mlp.router": (E, M),
        "mlp.experts.gate_up_proj": (E, 2 * F, M),
        "mlp.experts.down_proj": (E, M, F),
        "lm_head": (config["vocab_size"], M),
    }[module]


def random_updates(
    config: Mapping[str, Any],
    seed: int,
    modules: Sequence[str] = EVERYTHING,
    *,
    rank: int = 5,
    layers: Sequence[int] | None = None,
) -> Updates:
    """Draw A and B, float32, of modules in all layers, or in some."""
    draw = np.random.default_rng(seed)
    layers = range(config["num_hidden_layers"]) if layers is None else layers
    found: Updates = {}
    for module in modules:
        prefixes = (
            [""] if module == "lm_head" else [f"model.layers.{n}." for n in layers]
        )
        *experts, outputs, inputs = weight_shape(config, module)
        for prefix in prefixes:
            a = draw.standard_normal((*experts, inputs, rank)) / inputs**0.5
            b = draw.standard_normal((*experts, rank, outputs)) / rank**0.5 * STRENGTH
            found[prefix + module] = a.astype(np.float32), b.astype(np.float32)
    return found


def as_low_rank(updates: Updates) -> dict[str, LowRank]:
    return {path: LowRank(mx.array(a), mx.array(b)) for path, (a, b) in updates.items()}


def start_from(source: TrainableUpdates, updates: Updates, scale: float = 1.0) -> None:
    """Let training start from these updates, which have `scale` in B."""
    for path, (a, b) in updates.items():
        pair = source.updates[path.replace(".", SEPARATOR)]
        assert (pair["a"].shape, pair["b"].shape) == (a.shape, b.shape), path
        pair["a"], pair["b"] = mx.array(a), mx.array(b) / scale
    mx.eval(source.parameters())


def as_adapter(name: str, updates: Updates) -> Adapter:
    found = as_low_rank(updates)
    return Adapter(name, updates_digest(found), found)


def merged(tensors: oracle.Tensors, updates: Updates) -> dict[str, np.ndarray]:
    """Add every product to its weight, in float64; experts become dense."""
    found = dict(tensors)
    for path, (a, b) in updates.items():
        delta = a.astype(np.float64) @ b.astype(np.float64)  # (..., in, out)
        if delta.ndim == 2:
            found[f"{path}.weight"] = found[f"{path}.weight"] + delta.T
            continue
        weight, _ = oracle.expert_tensors(tensors, path)  # (E, out, in)
        for kind in ("blocks", "scales"):
            found.pop(f"{path}_{kind}", None)
        found[path] = weight.swapaxes(1, 2) + delta
    return found
