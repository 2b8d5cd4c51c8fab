"""llama.cpp's names of gpt-oss's settings: metadata to configs and back.

Ollama's metadata has the same keys under the prefix `gptoss.`, without the type of RoPE
scaling and the experts' own `feed_forward_length`. Reads no file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_gptoss.errors import CheckpointError, ConversionError
from mlx_gptoss.format.config import FULL, SLIDING, ModelConfig
from mlx_gptoss_convert.read.gguf import FLOAT32, STRING, UINT32
from mlx_gptoss_convert.read.gguf_names import ARCHITECTURE, OLLAMA_ARCHITECTURE

# Keys of `config.json` to keys of metadata, without the prefix.
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
SWIGLU_LIMIT = 7.0  # a constant in llama.cpp and in Ollama
ARCHITECTURES = (ARCHITECTURE, OLLAMA_ARCHITECTURE)
OTHER_KINDS = {  # values of `general.type` of GGUFs that are no models
    "adapter": "an adapter (LoRA) as GGUF, which is not read: use the adapter's "
    "safetensors files, of PEFT or mlx-lm",
    "imatrix": "an importance matrix for quantizing: give the GGUF of the model",
    "mmproj": "a projector for pictures: give the GGUF of the language model",
}


def config_from_metadata(
    metadata: Mapping[str, Any], vocab_size: int, where: str
) -> dict:
    """Return the metadata of a GGUF of gpt-oss as a config with Hugging Face's keys.

    Raises CheckpointError for missing keys.
    """
    architecture = metadata["general.architecture"]
    prefix = f"{architecture}."
    own = {
        key.removeprefix(prefix): value
        for key, value in metadata.items()
        if key.startswith(prefix)
    }
    if architecture == OLLAMA_ARCHITECTURE:
        own = with_unsaid(own)

    def value(key: str) -> Any:
        if key not in own:
            raise CheckpointError(
                f"`{where}` has no `{prefix}{key}`: convert it again with a current "
                "llama.cpp"
            )
        return own[key]

    config: dict[str, Any] = {name: value(key) for name, key in SIZE_KEYS.items()}
    config |= {name: shortest_float(value(key)) for name, key in FLOAT_KEYS.items()}
    layers = config["num_hidden_layers"]
    return config | {
        "architectures": ["GptOssForCausalLM"],
        "layer_types": alternating_layer_types(layers) if type(layers) is int else None,
        "model_type": "gpt_oss",
        "rope_scaling": rope_scaling_from_metadata(own),
        "swiglu_limit": SWIGLU_LIMIT,
        "vocab_size": vocab_size,
    }


def require_gpt_oss(metadata: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError for a GGUF that is no gpt-oss, saying what it is."""
    kind = metadata.get("general.type")
    if isinstance(kind, str) and kind in OTHER_KINDS:
        raise CheckpointError(f"`{where}` is {OTHER_KINDS[kind]}")
    found = metadata.get("general.architecture")
    if found not in ARCHITECTURES:
        raise CheckpointError(
            f"`{where}` has the architecture {found!r}, expected `{ARCHITECTURE}` or "
            f"Ollama's `{OLLAMA_ARCHITECTURE}`: give a GGUF of gpt-oss"
        )


def with_unsaid(own: dict[str, Any]) -> dict[str, Any]:
    """Add what Ollama's converter leaves out, as Ollama itself reads its files."""
    width = own.get("feed_forward_length")
    added = {} if width is None else {"expert_feed_forward_length": width}
    factor, context = own.get(SCALING + "factor"), own.get("context_length")
    if factor and factor > 1:
        added[SCALING + "type"] = "yarn"
        if not own.get(ORIGINAL_CONTEXT) and context:  # the config did not say it
            return added | own | {ORIGINAL_CONTEXT: int(context / factor)}
    return added | own


def rope_scaling_from_metadata(own: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return YaRN's settings; keys are without the architecture's prefix."""
    if own.get(SCALING + "type", "none") == "none":
        return None
    betas = {
        name: shortest_float(own.get(f"{SCALING}yarn_{name}", default))
        for name, default in BETA_DEFAULTS.items()
    }
    return {
        **betas,
        "factor": shortest_float(own.get(SCALING + "factor", 1.0)),
        "original_max_position_embeddings": own.get(ORIGINAL_CONTEXT),
        "rope_type": own[SCALING + "type"],
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
