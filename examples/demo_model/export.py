"""Export a training checkpoint to Hugging Face's layout with MXFP4 experts (torch).

    python -m examples.demo_model.export DIR mlx_gptoss/demo

The MXFP4 codes are those the trainer rounded to; other weights are bfloat16.
"""

# pyright: reportMissingImports=false

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from examples.demo_model.tokenizer import Encoder
from examples.demo_model.torch_model import (
    VALUES_PER_BLOCK,
    GptOss,
    Layer,
    Shape,
    mxfp4_parts,
)

FP4_SIZES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
NEGATIVE = 8  # the sign bit of a code
E8M0_BIAS = 127
MAX_POSITIONS = 131072
READABLE = 0o644
UNCONVERTED = (
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
)


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a matrix (E, rows, columns); return blocks (E, rows, G, 16) and scales."""
    E, rows, columns = weight.shape
    groups = columns // VALUES_PER_BLOCK
    values, exponents = mxfp4_parts(weight)
    codes = torch.searchsorted(FP4_SIZES, values.abs())
    codes += NEGATIVE * (values < 0)
    low, high = codes[:, 0::2], codes[:, 1::2]  # the low nibble holds the first value
    blocks = (low | high << 4).to(torch.uint8).view(E, rows, groups, -1)
    scales = (exponents + E8M0_BIAS).to(torch.uint8).view(E, rows, groups)
    return blocks, scales


def interleaved(halves: Tensor) -> Tensor:
    """Interleave gate rows (even) and up rows (odd): (E, 2F, ...)."""
    gate, up = halves.chunk(2, 1)
    return torch.stack((gate, up), 2).flatten(1, 2)


def layer_tensors(layer: Layer, shape: Shape) -> dict[str, Tensor]:
    H = shape.num_attention_heads * shape.head_dim
    Hk = shape.num_key_value_heads * shape.head_dim
    weights = layer.qkv_weight.split((H, Hk, Hk))
    biases = layer.qkv_bias.split((H, Hk, Hk))
    tensors = {
        "input_layernorm.weight": layer.attention_norm,
        "post_attention_layernorm.weight": layer.expert_norm,
        "self_attn.o_proj.weight": layer.o_weight,
        "self_attn.o_proj.bias": layer.o_bias,
        "self_attn.sinks": layer.sinks,
        "mlp.router.weight": layer.router_weight,
        "mlp.router.bias": layer.router_bias,
        "mlp.experts.gate_up_proj_bias": interleaved(layer.gate_up_bias),
        "mlp.experts.down_proj_bias": layer.down_bias,
    }
    for name, weight, bias in zip("qkv", weights, biases, strict=True):
        tensors[f"self_attn.{name}_proj.weight"] = weight
        tensors[f"self_attn.{name}_proj.bias"] = bias
    matrices = {"gate_up": interleaved(layer.gate_up_weight), "down": layer.down_weight}
    for name, weight in matrices.items():
        blocks, scales = packed(weight)
        tensors[f"mlp.experts.{name}_proj_blocks"] = blocks
        tensors[f"mlp.experts.{name}_proj_scales"] = scales
    return tensors


@torch.no_grad()
def model_tensors(model: GptOss) -> dict[str, Tensor]:
    """Return all tensors by their published names: U8 unchanged, floats as bfloat16."""
    tensors = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm,
        "lm_head.weight": model.head,
    }
    for number, layer in enumerate(model.layers):
        for name, tensor in layer_tensors(layer, model.shape).items():
            tensors[f"model.layers.{number}.{name}"] = tensor
    return {
        name: (t if t.dtype == torch.uint8 else t.bfloat16()).contiguous()
        for name, t in sorted(tensors.items())
    }


def config(shape: Shape, encoder: Encoder) -> dict:
    kinds = ("sliding_attention", "full_attention")
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": encoder.special("<|return|>"),
        "experts_per_token": shape.num_experts_per_tok,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initial_context_length": shape.rope_original,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "layer_types": [kinds[i % 2] for i in range(shape.num_hidden_layers)],
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "gpt_oss",
        "num_attention_heads": shape.num_attention_heads,
        "num_experts_per_tok": shape.num_experts_per_tok,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "num_local_experts": shape.num_local_experts,
        "output_router_logits": False,
        "pad_token_id": encoder.special("<|endoftext|>"),
        "quantization_config": {
            "modules_to_not_convert": list(UNCONVERTED),
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": {
            "beta_fast": shape.beta_fast,
            "beta_slow": shape.beta_slow,
            "factor": shape.rope_factor,
            "original_max_position_embeddings": shape.rope_original,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": int(shape.rope_theta),
        "router_aux_loss_coef": 0.9,
        "sliding_window": shape.sliding_window,
        "swiglu_limit": shape.swiglu_limit,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def generation_config(encoder: Encoder) -> dict:
    stops = ("<|return|>", "<|endoftext|>", "<|call|>")
    return {
        "bos_token_id": encoder.special("<|startoftext|>"),
        "do_sample": True,
        "eos_token_id": [encoder.special(name) for name in stops],
        "pad_token_id": encoder.special("<|endoftext|>"),
    }


def export(source: Path, target: Path) -> None:
    """Write the checkpoint in `source` to the folder `target`, file by file."""
    state = torch.load(source / "checkpoint.pt", weights_only=True)
    model = GptOss(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    encoder = Encoder.open(source / "tokenizer.json")
    target.mkdir(parents=True, exist_ok=True)
    beside = target / "model.safetensors.new"
    save_file(model_tensors(model), beside, metadata={"format": "pt"})
    beside.chmod(READABLE)
    os.replace(beside, target / "model.safetensors")
    _write(target / "config.json", json.dumps(config(model.shape, encoder), indent=2))
    _write(
        target / "generation_config.json",
        json.dumps(generation_config(encoder), indent=2),
    )
    _write(target / "tokenizer.json", (source / "tokenizer.json").read_text())


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text if text.endswith("\n") else text + "\n")
    os.replace(beside, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    export(given.source, given.target)
