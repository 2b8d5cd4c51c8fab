"""Configs of the published models, so that plans need no weights and no network.

Each under a recipe of `mlx-gptoss convert`; "lossless" is as OpenAI published it.
"""

from dataclasses import dataclass
from typing import Any

from mlx_gptoss.format.config import ModelConfig

COMMON: dict[str, Any] = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_experts_per_tok": 4,
    "vocab_size": 201088,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "rope_theta": 150000,
    "rms_norm_eps": 1e-5,
    "swiglu_limit": 7.0,
    "eos_token_id": 200002,
}
SIZES = {  # layers, experts
    "gpt-oss-20b": (24, 32),
    "gpt-oss-120b": (36, 128),
}
LOSSLESS = "lossless"
# Suffixes of converted models' names, ours and mlx-community's.
RECIPE_NAMES = {"-q8": "q8", "-q6": "q6", "-q4": "q4", "-lossless": LOSSLESS}


@dataclass(frozen=True)
class PublishedModel:
    """A published architecture, and the recipe of its weights beside the experts."""

    name: str
    config: ModelConfig
    recipe: str


def find_published_model(model: str) -> PublishedModel | None:
    """Find a published model, or a conversion of it, by name."""
    name = model.rstrip("/").rsplit("/", 1)[-1].lower()
    known = next((known for known in SIZES if name.startswith(known)), None)
    if known is None:
        return None
    recipe = next((r for end, r in RECIPE_NAMES.items() if name.endswith(end)), None)
    if recipe is None and name != known:
        return None
    layers, experts = SIZES[known]
    shape = COMMON | {
        "num_hidden_layers": layers,
        "num_local_experts": experts,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
    }
    return PublishedModel(known, ModelConfig.from_dict(shape), recipe or LOSSLESS)
