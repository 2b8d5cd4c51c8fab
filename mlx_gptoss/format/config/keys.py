"""Known keys of `config.json`, and readers of single values.

Each reader checks type and range and raises ConfigError naming the key.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, cast

from mlx_gptoss.errors import ConfigError

LOGGER = logging.getLogger(__name__)

# Upper limits of the sizes: far above gpt-oss-120b, far below values that would
# overflow an index or exhaust memory while tensor names are listed.
SIZE_LIMITS = {
    "num_hidden_layers": 1_024,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 20,
    "head_dim": 1 << 12,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "num_local_experts": 1 << 16,
    "num_experts_per_tok": 1 << 16,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 31,
    "sliding_window": 1 << 31,
}
SIZE_ALIASES = {
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "experts_per_token",
}

# Keys that change the maths and have one supported value (or may be missing).
SUPPORTED: dict[str, object] = {
    "hidden_act": "silu",
    "attention_bias": True,
    "swiglu_alpha": 1.702,
    "partial_rotary_factor": 1.0,
}

IGNORED_KEYS = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "dtype",
    "id2label",
    "initial_context_length",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "max_length",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "quantization",
    "quantization_config",
    "return_dict",
    "tie_word_embeddings",
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_return_dict",
}

KNOWN_KEYS = (
    set(SIZE_LIMITS)
    | set(SIZE_ALIASES.values())
    | set(SUPPORTED)
    | {"model_type", "layer_types", "rms_norm_eps", "swiglu_limit", "eos_token_id"}
    | {"rope_theta", "rope_scaling", "rope_parameters"}
    | {"original_max_position_embeddings"}
    | {"rope_scaling_factor", "rope_ntk_alpha", "rope_ntk_beta"}
)


def check_supported(
    raw: Mapping[str, Any], supported: Mapping[str, object], where: str
) -> None:
    for key, value in supported.items():
        if key in raw and raw[key] != value:
            raise ConfigError(
                f"`config.json` has `{where}{key}` = {raw[key]!r}, but gpt-oss is "
                f"computed with {value!r} only: use a gpt-oss checkpoint"
            )


def check_unknown(raw: Mapping[str, Any], *, strict: bool, quiet: bool) -> None:
    unknown = sorted(str(key) for key in set(raw) - KNOWN_KEYS - IGNORED_KEYS)
    if not unknown:
        return
    names = ", ".join(f"`{key}`" for key in unknown)
    if strict:
        raise ConfigError(
            f"`config.json` has unknown keys {names}: remove them, or load without "
            "strict"
        )
    if not quiet:
        LOGGER.warning("`config.json` has unknown keys, ignored: %s", names)


def read_size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Read one positive integer under `key` or its alias."""
    alias = SIZE_ALIASES.get(key, key)
    if key in raw and alias in raw and raw[key] != raw[alias]:
        raise ConfigError(
            f"`config.json` has `{key}` = {raw[key]!r} but `{alias}` = {raw[alias]!r}: "
            "both mean the same, correct one of them"
        )
    value = raw.get(key, raw.get(alias, default))
    if value is None:
        raise ConfigError(
            f"`config.json` has no `{key}`: take the file from the model's source"
        )
    limit = SIZE_LIMITS[key]
    if type(value) is not int or not 0 < value <= limit:
        raise ConfigError(
            f"`config.json` has `{key}` = {value!r:.80}, expected an integer "
            f"from 1 to {limit}"
        )
    return value


def read_positive(
    raw: Mapping[str, Any], key: str, default: float | None = None, *, where: str = ""
) -> float:
    """Read one positive, finite number."""
    value = raw.get(key, default)
    if value is None:
        raise ConfigError(
            f"`config.json` has no `{where}{key}`: take the file from the model's "
            "source"
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 1e300 or not math.isfinite(value):
        raise ConfigError(
            f"`config.json` has `{where}{key}` = {value!r:.80}, expected a positive "
            "number"
        )
    return float(value)


def read_token_ids(
    raw: Mapping[str, Any], key: str, *, file: str = "config.json"
) -> tuple[int, ...]:
    """Read an id, a list of ids or nothing."""
    value = raw.get(key)
    if value is None:
        return ()
    ids = cast("list[object]", value if isinstance(value, list) else [value])
    for token in ids:
        if type(token) is not int or token < 0:
            raise ConfigError(
                f"`{file}` has `{key}` = {value!r:.80}, expected token ids"
            )
    return tuple(cast("list[int]", ids))
