"""Random tiny gpt-oss checkpoints in the Hugging Face MXFP4 layout, for tests.

    config = hf_config(num_hidden_layers=2)         # a config.json as a dict
    tensors = random_tensors(config, seed=0)        # numpy, HF names
    folder = write_checkpoint(tmp_path, seed=0)     # the same on disk, BF16 and U8

Floats are float32 arrays that hold bfloat16 values exactly, so that the tensors in
hand are the tensors in the file. Knows numpy, nothing of ours.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]

VALUES_PER_BLOCK = 32
BYTES_PER_BLOCK = 16
E8M0_BIAS = 127
FP4_RMS = 2.926  # of the sixteen FP4 values, each as likely as the others

# How far the random weights of a projection carry: output rms for an input of rms 1.
# With these, logits reach about 4 and a key more or less moves them by tenths.
GAINS = {"qkv": 1.3, "o_proj": 1.5, "router": 1.5, "expert": 0.9, "lm_head": 1.1}
BIAS_STD = 0.1

SAFETENSORS_DTYPES = {
    "float32": "BF16",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
}


def hf_config(**overrides: Any) -> dict[str, Any]:
    """Return a `config.json` of the real form with small odd sizes.

    `overrides` are keys of config.json; `layer_types` follows `num_hidden_layers`
    (sliding first, then alternating) unless given.
    """
    config: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 2,
        "experts_per_token": 3,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 192,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 6,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "num_local_experts": 5,
        "output_router_logits": False,
        "pad_token_id": 0,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 8,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": 301,
    }
    config.update(overrides)
    config["experts_per_token"] = config["num_experts_per_tok"]
    kinds = ("sliding_attention", "full_attention")
    config.setdefault(
        "layer_types", [kinds[n % 2] for n in range(config["num_hidden_layers"])]
    )
    return config


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Draw every tensor of `config`: uint8 blocks and scales, bfloat16-exact floats."""
    draw = np.random.default_rng(seed)
    M, F, E = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_local_experts")
    )
    H, Hk, D = (
        config[key]
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    V = config["vocab_size"]

    tensors: Tensors = {
        "model.embed_tokens.weight": _normal(draw, (V, M), 1.0),
        "model.norm.weight": _around_one(draw, M),
        "lm_head.weight": _projection(draw, V, M, GAINS["lm_head"]),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        tensors[layer + "input_layernorm.weight"] = _around_one(draw, M)
        tensors[layer + "post_attention_layernorm.weight"] = _around_one(draw, M)
        for name, rows in (("q", H * D), ("k", Hk * D), ("v", Hk * D)):
            tensors |= _linear(
                draw, f"{layer}self_attn.{name}_proj", rows, M, GAINS["qkv"]
            )
        tensors |= _linear(draw, layer + "self_attn.o_proj", M, H * D, GAINS["o_proj"])
        tensors[layer + "self_attn.sinks"] = _normal(draw, (H,), 1.0)
        tensors |= _linear(draw, layer + "mlp.router", E, M, GAINS["router"])
        experts = layer + "mlp.experts."
        tensors |= _packed(draw, experts + "gate_up_proj", E, 2 * F, M)
        tensors |= _packed(draw, experts + "down_proj", E, M, F)
    return tensors


def write_checkpoint(
    folder: str | Path, *, seed: int = 0, layout: str = "hf", **overrides: Any
) -> Path:
    """Write `hf_config(**overrides)` and `random_tensors` of it; return the folder.

    One `model.safetensors` and a `config.json`. Only `layout="hf"` is known here.
    """
    if layout != "hf":
        raise ValueError(f"{layout=}")
    config = hf_config(**overrides)
    return write_folder(folder, config, random_tensors(config, seed))


def write_folder(
    folder: str | Path, config: Mapping[str, Any], tensors: Tensors
) -> Path:
    """Write any config and tensors: float32 arrays become BF16, uint8 stay U8."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_tensors(folder / "model.safetensors", tensors)
    return folder


def save_tensors(path: str | Path, tensors: Tensors) -> None:
    """Write one safetensors file: float32 arrays as BF16 bits, the rest as they are.

    By hand: no numpy dtype is bfloat16, and a file is only an 8-byte length, a JSON
    header and the bytes in its order.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    buffers = []
    end = 0
    for name, tensor in tensors.items():
        bits = bfloat16_bits(tensor) if tensor.dtype == np.float32 else tensor
        buffers.append(np.ascontiguousarray(bits).tobytes())
        start, end = end, end + bits.nbytes
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    length = len(text).to_bytes(8, "little")
    Path(path).write_bytes(b"".join([length, text, *buffers]))


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16 (ties to even) and return the bits as uint16."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round to bfloat16 values, kept in float32."""
    return (bfloat16_bits(x).astype(np.uint32) << 16).view(np.float32)


def _normal(
    draw: np.random.Generator, shape: tuple[int, ...], std: float
) -> np.ndarray:
    return to_bfloat16(std * draw.standard_normal(shape, np.float32))


def _around_one(draw: np.random.Generator, size: int) -> np.ndarray:
    return to_bfloat16(1 + 0.1 * draw.standard_normal(size, np.float32))


def _projection(
    draw: np.random.Generator, rows: int, columns: int, gain: float
) -> np.ndarray:
    return _normal(draw, (rows, columns), gain / columns**0.5)


def _linear(
    draw: np.random.Generator, name: str, rows: int, columns: int, gain: float
) -> Tensors:
    return {
        f"{name}.weight": _projection(draw, rows, columns, gain),
        f"{name}.bias": _normal(draw, (rows,), BIAS_STD),
    }


def _packed(
    draw: np.random.Generator, name: str, E: int, rows: int, columns: int
) -> Tensors:
    blocks = columns // VALUES_PER_BLOCK
    assert blocks * VALUES_PER_BLOCK == columns, f"{columns=}"
    exponent = round(np.log2(GAINS["expert"] / columns**0.5 / FP4_RMS)) + E8M0_BIAS
    shape = (E, rows, blocks)
    return {
        f"{name}_blocks": draw.integers(
            0, 256, (*shape, BYTES_PER_BLOCK), dtype=np.uint8
        ),
        f"{name}_scales": draw.integers(
            exponent - 1, exponent + 2, shape, dtype=np.uint8
        ),
        f"{name}_bias": _normal(draw, (E, rows), BIAS_STD),
    }
