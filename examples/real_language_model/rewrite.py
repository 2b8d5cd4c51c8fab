"""Rewrite a Llama as a gpt-oss that computes the same function.

Every feature of gpt-oss that a Llama lacks is set to have no effect:

    sinks             so low that they get no weight
    YaRN              factor 1: plain rotary positions
    sliding window    as long as the context
    experts           the feed-forward split into T slices; a router of zeros gives each
                      1/T, which the down projection compensates
    "up + 1"          a bias of -1 on up
    slope 1.702       gate / 1.702 and up * 1.702 give the plain swish
    clamp of up       neurons with large values are scaled down before, and up after
    clamp of gate     kept: it is hardly ever reached
    other experts     random neurons that the router's bias never selects

Knows arrays and names, not files.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.real_language_model.original import HEAD_DIM, Original, Ranges
from mlx_gptoss.format.mxfp4 import encode
from mlx_gptoss.model.experts.host import SWISH_SLOPE

Tensors = dict[str, np.ndarray]

CHOSEN, OTHERS = 4, 4  # experts in use, experts that are never chosen
NEVER = -50.0  # a router bias
NO_SINK = -1e4
SWIGLU_LIMIT = 7.0
MARGIN = 1.5  # headroom of `up` over the calibration text


def tensors(original: Original, ranges: list[Ranges], *, mxfp4: bool) -> Iterator[Any]:
    """Yield (name, array) in Hugging Face's layout: floats as float32, MXFP4 as uint8.

    Without `mxfp4` experts are dense: (experts, in, out).
    """
    yield "model.embed_tokens.weight", original.tensors["token_embd.weight"]
    yield "lm_head.weight", original.head
    yield "model.norm.weight", original.tensors["output_norm.weight"]
    draw = np.random.default_rng(0)
    for layer in range(original.layers):
        prefix = f"model.layers.{layer}."
        own = {
            name.removeprefix(f"blk.{layer}.").removesuffix(".weight"): tensor
            for name, tensor in original.tensors.items()
            if name.startswith(f"blk.{layer}.")
        }
        for name, tensor in attention(own, original.heads[0]).items():
            yield prefix + name, tensor
        for name, tensor in mlp(own, ranges[layer], draw).items():
            if mxfp4 and name.endswith("_proj"):
                blocks, scales = encode(tensor)
                yield f"{prefix}{name}_blocks", blocks
                yield f"{prefix}{name}_scales", scales
            elif name.endswith("_proj"):
                yield prefix + name, tensor.swapaxes(1, 2)
            else:
                yield prefix + name, tensor


def attention(own: Tensors, heads: int) -> Tensors:
    found = {
        "input_layernorm.weight": own["attn_norm"],
        "post_attention_layernorm.weight": own["ffn_norm"],
        "self_attn.sinks": np.full(heads, NO_SINK, np.float32),
    }
    for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "output")):
        weight = own[f"attn_{theirs}"]
        found[f"self_attn.{ours}_proj.weight"] = weight
        found[f"self_attn.{ours}_proj.bias"] = np.zeros(len(weight), np.float32)
    return found


def mlp(own: Tensors, ranges: Ranges, draw: np.random.Generator) -> Tensors:
    """Build the router and experts (experts, out, in), with gate and up interleaved."""
    gate, up, down = scaled(own, ranges)
    F, M = gate.shape
    E, size = CHOSEN + OTHERS, F // CHOSEN
    gate_up = np.empty((E, 2 * size, M), np.float32)
    downs = np.empty((E, M, size), np.float32)
    for expert in range(E):
        cut: Any = slice(expert * size, (expert + 1) * size)
        if expert >= CHOSEN:
            cut = draw.permutation(F)[:size]
        gate_up[expert, 0::2], gate_up[expert, 1::2] = gate[cut], up[cut]
        downs[expert] = down[:, cut]
    gate_up_bias = np.zeros((E, 2 * size), np.float32)
    gate_up_bias[:, 1::2] = -1
    return {
        "mlp.router.weight": np.zeros((E, M), np.float32),
        "mlp.router.bias": np.array([0.0] * CHOSEN + [NEVER] * OTHERS),
        "mlp.experts.gate_up_proj": gate_up,
        "mlp.experts.gate_up_proj_bias": gate_up_bias,
        "mlp.experts.down_proj": downs,
        "mlp.experts.down_proj_bias": np.zeros((E, M), np.float32),
    }


def scaled(own: Tensors, ranges: Ranges) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale and order the neurons of gate (F, M), up (F, M) and down (M, F).

    Scaling by powers of two is exact. Neurons may be in any order; similar ones are put
    side by side, because 32 columns of the down projection share one scale.
    """
    reach = MARGIN * SWISH_SLOPE * ranges.up / (SWIGLU_LIMIT - 1)
    room = np.exp2(np.ceil(np.log2(np.maximum(reach, 1)))).astype(np.float32)
    gate = own["ffn_gate"] / SWISH_SLOPE
    up = own["ffn_up"] * SWISH_SLOPE / room[:, None]
    down = own["ffn_down"] * room * CHOSEN
    order = np.argsort(np.abs(down).max(axis=0), kind="stable")
    return gate[order], up[order], down[:, order]


def config(original: Original, *, mxfp4: bool) -> dict[str, Any]:
    """Return the contents of `config.json`."""
    context = original.number("context_length")
    H, Hk = original.heads
    metadata = original.metadata
    eos = metadata["tokenizer.ggml.eos_token_id"]
    written = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": eos,
        "experts_per_token": CHOSEN,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": original.number("embedding_length"),
        "initial_context_length": context,
        "initializer_range": 0.02,
        "intermediate_size": original.number("feed_forward_length") // CHOSEN,
        "layer_types": ["sliding_attention", "full_attention"] * (original.layers // 2),
        "max_position_embeddings": context,
        "model_type": "gpt_oss",
        "num_attention_heads": H,
        "num_experts_per_tok": CHOSEN,
        "num_hidden_layers": original.layers,
        "num_key_value_heads": Hk,
        "num_local_experts": CHOSEN + OTHERS,
        "output_router_logits": False,
        "pad_token_id": eos,
        "rms_norm_eps": original.eps,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 1.0,
            "original_max_position_embeddings": context,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": original.number("rope.freq_base"),
        "router_aux_loss_coef": 0.9,
        "sliding_window": context,
        "swiglu_limit": SWIGLU_LIMIT,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": len(original.head),
    }
    if mxfp4:
        written["quantization_config"] = {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        }
    return written
