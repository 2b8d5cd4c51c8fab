"""Write `config.json` of the result: Hugging Face's keys, and `quantization`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.format.config import MXFP4, ModelConfig, Quantization

# Keys of the source that are rewritten or no longer apply.
REPLACED = frozenset(
    {
        "_name_or_path",
        "num_experts",
        "quantization",
        "quantization_config",
        "rope_ntk_alpha",
        "rope_ntk_beta",
        "rope_parameters",
        "rope_scaling_factor",
    }
)


def config_json(
    checkpoint: Checkpoint, quantization: Mapping[str, Quantization]
) -> str:
    """Write `config.json` of the result, with the keys that every loader reads."""
    config = checkpoint.config
    if config.is_classifier:
        return classifier_json(checkpoint, quantization)
    kept = {
        key: value
        for key, value in checkpoint.raw_config.items()
        if key not in REPLACED
    }
    eos = kept.get("eos_token_id", list(config.eos_token_ids))
    written = {**kept, **hugging_face_config(config), "eos_token_id": eos}
    if quantization:
        written["quantization"] = quantization_config(quantization)
    return json.dumps(dict(sorted(written.items())), indent=2) + "\n"


def classifier_json(
    checkpoint: Checkpoint, quantization: Mapping[str, Quantization]
) -> str:
    """Write that of a token classifier: its own keys, and `quantization`."""
    stale = ("quantization", "quantization_config", "_name_or_path")
    written = {k: v for k, v in checkpoint.raw_config.items() if k not in stale}
    if quantization:
        written["quantization"] = quantization_config(quantization)
    return json.dumps(dict(sorted(written.items())), indent=2) + "\n"


def hugging_face_config(config: ModelConfig) -> dict[str, Any]:
    """Return a config with Hugging Face's keys."""
    values = asdict(config)
    del values["eos_token_ids"]
    del values["labels"]
    by_layer = values.pop("experts_by_layer")
    if by_layer:
        values["num_local_experts"] = list(by_layer)
    theta = config.rope_theta
    return {
        **values,
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "experts_per_token": config.num_experts_per_tok,
        "hidden_act": "silu",
        "layer_types": list(config.layer_types),
        "model_type": "gpt_oss",
        "rope_theta": int(theta) if theta.is_integer() else theta,
        "tie_word_embeddings": False,
    }


def quantization_config(quantization: Mapping[str, Quantization]) -> dict[str, Any]:
    """Return a default, and the setting of every packed module with its mode.

    mlx-lm takes a module without a mode for affine, so no module relies on the default.
    """
    settings = [setting for setting in quantization.values() if setting != MXFP4]
    default = settings[0] if settings else MXFP4
    modules = {path: asdict(quantization[path]) for path in sorted(quantization)}
    return {**asdict(default), **modules}
