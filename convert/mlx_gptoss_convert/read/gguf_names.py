"""llama.cpp's names of gpt-oss's tensors and settings: tables, used both ways.

Translates between metadata and configs; reads no file.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_gptoss.errors import CheckpointError, ConversionError
from mlx_gptoss.format.config import FULL, SLIDING, ModelConfig
from mlx_gptoss.format.layout import LAYER, PLAIN, SPLIT, Layout
from mlx_gptoss_convert.read.gguf import FLOAT32, STRING, UINT32

ARCHITECTURE = "gpt-oss"
BLOCK = "blk.{n}."
MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    LAYER + "input_layernorm.weight": BLOCK + "attn_norm.weight",
    LAYER + "post_attention_layernorm.weight": BLOCK + "post_attention_norm.weight",
    LAYER + "self_attn.sinks": BLOCK + "attn_sinks.weight",
} | {
    f"{LAYER}{module}.{kind}": f"{BLOCK}{name}.{kind}"
    for module, name in MODULES.items()
    for kind in ("weight", "scales", "bias")
}
GGUF = Layout(
    name="gguf",
    title="GGUF, as llama.cpp runs it",
    experts=SPLIT,
    names=NAMES,
    expert_form=PLAIN,
)

LAYER_NUMBER = re.compile(r"^blk\.\d+\.")


def is_known(name: str) -> bool:
    """Whether llama.cpp's gpt-oss has a tensor of that name in any layer."""
    return LAYER_NUMBER.sub(BLOCK, name) in NAMES.values()


# Keys of `config.json` to keys of metadata, without the prefix `gpt-oss.`.
SIZE_KEYS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "expert_feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "sliding_window": "attention.sliding_window",
}
FLOAT_KEYS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
SCALING = "rope.scaling."
ORIGINAL_CONTEXT = SCALING + "original_context_length"
BETA_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}  # llama.cpp's defaults
SWIGLU_LIMIT = 7.0  # a constant in llama.cpp


def config_from_metadata(
    metadata: Mapping[str, Any], vocab_size: int, where: str
) -> dict:
    """Return the metadata of a GGUF as a config with Hugging Face's keys.

    Raises CheckpointError for another architecture and for missing keys.
    """
    found = metadata.get("general.architecture")
    if found != ARCHITECTURE:
        hint = " (Ollama's)" if found == "gptoss" else ""
        raise CheckpointError(
            f"`{where}` has the architecture {found!r}{hint}, expected "
            f"`{ARCHITECTURE}`: give a GGUF of gpt-oss made by llama.cpp's converter"
        )

    def value(key: str) -> Any:
        full = f"{ARCHITECTURE}.{key}"
        if full not in metadata:
            raise CheckpointError(
                f"`{where}` has no `{full}`: convert it again with a current llama.cpp"
            )
        return metadata[full]

    config: dict[str, Any] = {name: value(key) for name, key in SIZE_KEYS.items()}
    config |= {name: shortest_float(value(key)) for name, key in FLOAT_KEYS.items()}
    layers = config["num_hidden_layers"]
    return config | {
        "architectures": ["GptOssForCausalLM"],
        "layer_types": alternating_layer_types(layers) if type(layers) is int else None,
        "model_type": "gpt_oss",
        "rope_scaling": rope_scaling_from_metadata(metadata),
        "swiglu_limit": SWIGLU_LIMIT,
        "vocab_size": vocab_size,
    }


def rope_scaling_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    prefix = f"{ARCHITECTURE}.{SCALING}"
    if metadata.get(prefix + "type", "none") == "none":
        return None
    betas = {
        name: shortest_float(metadata.get(f"{prefix}yarn_{name}", default))
        for name, default in BETA_DEFAULTS.items()
    }
    return {
        **betas,
        "factor": shortest_float(metadata.get(prefix + "factor", 1.0)),
        "original_max_position_embeddings": metadata.get(
            f"{ARCHITECTURE}.{ORIGINAL_CONTEXT}"
        ),
        "rope_type": metadata[prefix + "type"],
        "truncate": False,
    }


def shortest_float(value: Any) -> Any:
    """Return the shortest decimal of a float32: 1e-05, not 9.99999975e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def alternating_layer_types(layers: int) -> list[str]:
    """Return the layer types that llama.cpp assumes."""
    return [SLIDING if layer % 2 == 0 else FULL for layer in range(layers)]


def config_to_metadata(config: ModelConfig) -> dict[str, tuple[int, Any]]:
    """Return a config as metadata.

    Raises ConversionError for a model that llama.cpp would compute differently.
    """
    check_maths(config)
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, ARCHITECTURE),
        "general.name": (STRING, ARCHITECTURE),
        "general.quantization_version": (UINT32, 2),
    }
    prefix = ARCHITECTURE + "."
    metadata |= {
        prefix + key: (UINT32, getattr(config, name)) for name, key in SIZE_KEYS.items()
    }
    metadata |= {
        prefix + key: (FLOAT32, getattr(config, name))
        for name, key in FLOAT_KEYS.items()
    }
    metadata[prefix + "feed_forward_length"] = (UINT32, config.intermediate_size)
    metadata[prefix + "attention.value_length"] = (UINT32, config.head_dim)
    metadata[prefix + "vocab_size"] = (UINT32, config.vocab_size)
    scaling = config.rope_scaling
    if scaling is not None:
        original = scaling.original_max_position_embeddings
        metadata[prefix + SCALING + "type"] = (STRING, scaling.rope_type)
        metadata[prefix + SCALING + "factor"] = (FLOAT32, scaling.factor)
        metadata[prefix + ORIGINAL_CONTEXT] = (UINT32, original)
        for name, default in BETA_DEFAULTS.items():
            if getattr(scaling, name) != default:
                key = f"{prefix}{SCALING}yarn_{name}"
                metadata[key] = (FLOAT32, getattr(scaling, name))
    return metadata


def check_maths(config: ModelConfig) -> None:
    """Raise ConversionError where the config differs from llama.cpp's constants."""
    if config.swiglu_limit != SWIGLU_LIMIT:
        raise ConversionError(
            f"`swiglu_limit` is {config.swiglu_limit}, llama.cpp computes with "
            f"{SWIGLU_LIMIT}: this model has no GGUF"
        )
    if list(config.layer_types) != alternating_layer_types(config.num_hidden_layers):
        raise ConversionError(
            "`layer_types` do not alternate from `sliding_attention`, as llama.cpp "
            "assumes: this model has no GGUF"
        )
