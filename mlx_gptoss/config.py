"""What `config.json` says, checked: sizes, layer kinds, rotary settings, quantization.

Reads dictionaries, not files, and knows nothing of tensors. Accepts the spellings of
Hugging Face (`rope_scaling` or, since transformers 5, `rope_parameters`), of OpenAI's
`original/` folder (`num_experts`, `rope_scaling_factor`, ...) and of MLX
(`quantization`). A key of the maths with a value the model cannot do is an error; keys
known to be harmless are ignored; any other key is one warning, or an error when strict.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mlx_gptoss.errors import ConfigError

LOGGER = logging.getLogger(__name__)

FULL = "full_attention"
SLIDING = "sliding_attention"

# The largest value each size may have: far above gpt-oss-120b, far below what would
# overflow an index or exhaust memory while the names of the tensors are listed.
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
MAX_PARAMETERS = 10**13  # a hundred times gpt-oss-120b
SIZE_ALIASES = {
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "experts_per_token",
}

# Keys of the maths that have one supported value (they may also be left out).
SUPPORTED: dict[str, object] = {
    "model_type": "gpt_oss",
    "hidden_act": "silu",
    "attention_bias": True,
    "tie_word_embeddings": False,
    "swiglu_alpha": 1.702,
    "partial_rotary_factor": 1.0,
}
ROPE_SUPPORTED: dict[str, object] = {
    "partial_rotary_factor": 1.0,
    "attention_factor": None,
    "mscale": None,
    "mscale_all_dim": None,
}
ROPE_KEYS = {
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "truncate",
}
HARMLESS = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
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
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_return_dict",
}
READ = (
    set(SIZE_LIMITS)
    | set(SIZE_ALIASES.values())
    | set(SUPPORTED)
    | {"layer_types", "rms_norm_eps", "swiglu_limit", "eos_token_id"}
    | {"rope_theta", "rope_scaling", "rope_parameters"}
    | {"rope_scaling_factor", "rope_ntk_alpha", "rope_ntk_beta"}
)

QUANTIZATION_MODES = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
}


@dataclass(frozen=True)
class Quantization:
    """How one weight is packed: `mode` is "affine" or "mxfp4"."""

    bits: int
    group_size: int
    mode: str


MXFP4 = Quantization(bits=4, group_size=32, mode="mxfp4")


@dataclass(frozen=True)
class RopeScaling:
    """YaRN settings; `truncate` rounds the ramp's bounds (gpt-oss does not)."""

    rope_type: str
    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    truncate: bool


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and constants of one gpt-oss model; fields are `config.json` keys."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    head_dim: int
    num_attention_heads: int
    num_key_value_heads: int
    num_local_experts: int
    num_experts_per_tok: int
    vocab_size: int
    sliding_window: int
    layer_types: tuple[str, ...]
    rope_theta: float
    rope_scaling: RopeScaling | None
    rms_norm_eps: float
    swiglu_limit: float
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], *, strict: bool = False
    ) -> "ModelConfig":
        """Read a parsed `config.json`.

        Raises ConfigError for impossible sizes, unsupported maths and, when `strict`,
        for keys nobody here knows (otherwise one warning names them).
        """
        check_supported(raw, SUPPORTED, "")
        check_unknown(raw, strict=strict)
        layers = size(raw, "num_hidden_layers")
        rope_theta, rope_scaling = read_rope(raw)
        layer_types = read_layer_types(raw, layers)
        config = cls(
            num_hidden_layers=layers,
            hidden_size=size(raw, "hidden_size"),
            intermediate_size=size(raw, "intermediate_size"),
            head_dim=size(raw, "head_dim"),
            num_attention_heads=size(raw, "num_attention_heads"),
            num_key_value_heads=size(raw, "num_key_value_heads"),
            num_local_experts=size(raw, "num_local_experts"),
            num_experts_per_tok=size(raw, "num_experts_per_tok"),
            vocab_size=size(raw, "vocab_size"),
            sliding_window=read_sliding_window(raw, layer_types),
            layer_types=layer_types,
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            rms_norm_eps=positive(raw, "rms_norm_eps", 1e-5),
            swiglu_limit=positive(raw, "swiglu_limit", 7.0),
            max_position_embeddings=read_context(raw, rope_scaling),
            eos_token_ids=read_token_ids(raw, "eos_token_id"),
        )
        check_sizes_agree(config)
        return config


def check_supported(
    raw: Mapping[str, Any], supported: Mapping[str, object], where: str
) -> None:
    for key, value in supported.items():
        if key in raw and raw[key] != value:
            raise ConfigError(
                f"`config.json` has `{where}{key}` = {raw[key]!r}, but gpt-oss is "
                f"computed with {value!r} only: use a gpt-oss checkpoint"
            )


def check_unknown(raw: Mapping[str, Any], *, strict: bool) -> None:
    unknown = sorted(str(key) for key in set(raw) - READ - HARMLESS)
    if not unknown:
        return
    names = ", ".join(f"`{key}`" for key in unknown)
    if strict:
        raise ConfigError(
            f"`config.json` has unknown keys {names}: remove them, or load without "
            "strict"
        )
    LOGGER.warning("`config.json` has unknown keys, ignored: %s", names)


def size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Read one positive whole number under `key` or its other spelling."""
    alias = SIZE_ALIASES.get(key, key)
    if key in raw and alias in raw and raw[key] != raw[alias]:
        raise ConfigError(
            f"`config.json` has `{key}` = {raw[key]!r} but `{alias}` = {raw[alias]!r}: "
            "they name one thing, correct one of them"
        )
    value = raw.get(key, raw.get(alias, default))
    if value is None:
        raise ConfigError(
            f"`config.json` has no `{key}`: take the file from the model's source"
        )
    limit = SIZE_LIMITS[key]
    if type(value) is not int or not 0 < value <= limit:
        raise ConfigError(
            f"`config.json` has `{key}` = {value!r}, expected a whole number from 1 "
            f"to {limit}"
        )
    return value


def positive(
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
            f"`config.json` has `{where}{key}` = {value!r}, expected a positive number"
        )
    return float(value)


def read_layer_types(raw: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """Read each layer's kind; alternating from `sliding_attention` when left out."""
    kinds = raw.get("layer_types")
    if kinds is None:
        return tuple(SLIDING if layer % 2 == 0 else FULL for layer in range(layers))
    if not isinstance(kinds, list | tuple):
        raise ConfigError(
            f"`config.json` has `layer_types` = {kinds!r}, expected a list"
        )
    names = tuple(cast("list[object]", kinds))
    for kind in names:
        if kind not in (FULL, SLIDING):
            raise ConfigError(
                f"`config.json` has {kind!r} in `layer_types`, expected "
                f"`{SLIDING}` or `{FULL}`"
            )
    if len(names) != layers:
        raise ConfigError(
            f"`config.json` has {len(names)} `layer_types` for {layers} "
            "`num_hidden_layers`: give one kind a layer"
        )
    return cast("tuple[str, ...]", names)


def read_sliding_window(raw: Mapping[str, Any], layer_types: tuple[str, ...]) -> int:
    """Read the window; a model without sliding layers may say null."""
    if raw.get("sliding_window") is None and SLIDING not in layer_types:
        return size({}, "sliding_window", 128)
    return size(raw, "sliding_window")


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
            raise ConfigError(f"`{file}` has `{key}` = {value!r}, expected token ids")
    return tuple(cast("list[int]", ids))


def read_context(raw: Mapping[str, Any], scaling: RopeScaling | None) -> int:
    """Read the longest context; `original/` says it as a product of two keys."""
    if "max_position_embeddings" in raw or scaling is None:
        return size(raw, "max_position_embeddings", 4096)
    product = scaling.factor * scaling.original_max_position_embeddings
    return size({}, "max_position_embeddings", int(product))


def read_rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Read the rotary base and its YaRN settings from any of the three spellings."""
    if raw.get("rope_parameters") is not None:
        where, settings = "rope_parameters.", raw["rope_parameters"]
    elif "rope_scaling" in raw:
        where, settings = "rope_scaling.", raw["rope_scaling"]
    else:
        where, settings = "", original_rope(raw)
    if settings is None:
        return check_theta(positive(raw, "rope_theta", 150_000.0)), None
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"`config.json` has `{where[:-1]}` = {settings!r}, expected an object"
        )
    settings = cast("Mapping[str, Any]", settings)
    theta = positive(
        settings, "rope_theta", positive(raw, "rope_theta", 150_000.0), where=where
    )
    return check_theta(theta), read_rope_scaling(settings, raw, where)


def check_theta(theta: float) -> float:
    if theta <= 1:
        raise ConfigError(f"`config.json` has `rope_theta` = {theta}, expected above 1")
    return theta


def original_rope(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Spell the flat keys of `original/config.json` as `rope_scaling`."""
    factor = positive(raw, "rope_scaling_factor", 32.0)
    if factor <= 1:  # the reference scales only above 1
        return None
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": raw.get("initial_context_length", 4096),
        "beta_slow": raw.get("rope_ntk_alpha", 1.0),
        "beta_fast": raw.get("rope_ntk_beta", 32.0),
        "truncate": False,
    }


def read_rope_scaling(
    settings: Mapping[str, Any], raw: Mapping[str, Any], where: str
) -> RopeScaling | None:
    kind = settings.get("rope_type", settings.get("type"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise ConfigError(
            f"`config.json` has `{where}rope_type` = {kind!r}, expected `yarn` or "
            "`default`: other rotary scalings are not supported"
        )
    check_supported(settings, ROPE_SUPPORTED, where)
    unknown = sorted(set(settings) - ROPE_KEYS - set(ROPE_SUPPORTED))
    if unknown:
        raise ConfigError(
            f"`config.json` has `{where}{unknown[0]}`, which would change the maths in "
            "a way not supported: use a gpt-oss checkpoint"
        )
    original = settings.get(
        "original_max_position_embeddings", raw.get("initial_context_length")
    )
    if type(original) is not int or not 0 < original <= 1 << 31:
        raise ConfigError(
            f"`config.json` has `{where}original_max_position_embeddings` = "
            f"{original!r}, expected a positive whole number"
        )
    truncate = settings.get("truncate", True)  # transformers' default
    if type(truncate) is not bool:
        raise ConfigError(
            f"`config.json` has `{where}truncate` = {truncate!r}, expected true or "
            "false"
        )
    scaling = RopeScaling(
        rope_type="yarn",
        factor=positive(settings, "factor", where=where),
        original_max_position_embeddings=original,
        beta_fast=positive(settings, "beta_fast", 32.0, where=where),
        beta_slow=positive(settings, "beta_slow", 1.0, where=where),
        truncate=truncate,
    )
    if scaling.factor < 1:
        raise ConfigError(
            f"`config.json` has `{where}factor` = {scaling.factor}, expected at least 1"
        )
    if scaling.beta_fast <= scaling.beta_slow:
        raise ConfigError(
            f"`config.json` has `{where}beta_fast` = {scaling.beta_fast}, expected "
            f"more than `beta_slow` = {scaling.beta_slow}"
        )
    return scaling


def check_sizes_agree(config: ModelConfig) -> None:
    """Refuse sizes that no model of this shape can have."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if heads % groups:
        raise ConfigError(
            f"`config.json` has `num_attention_heads` = {heads}, not a multiple of "
            f"`num_key_value_heads` = {groups}"
        )
    if config.head_dim % 2:
        raise ConfigError(
            f"`config.json` has `head_dim` = {config.head_dim}, expected an even "
            "number (rotary pairs)"
        )
    if config.num_experts_per_tok > config.num_local_experts:
        raise ConfigError(
            f"`config.json` has `num_experts_per_tok` = {config.num_experts_per_tok}, "
            f"more than `num_local_experts` = {config.num_local_experts}"
        )
    for token in config.eos_token_ids:
        if token >= config.vocab_size:
            raise ConfigError(
                f"`config.json` has `eos_token_id` {token}, outside `vocab_size` = "
                f"{config.vocab_size}"
            )
    count = count_parameters(config)
    if count > MAX_PARAMETERS:
        raise ConfigError(
            f"`config.json` describes {count:.3g} parameters, more than the "
            f"{MAX_PARAMETERS:.0e} allowed: correct its sizes"
        )


def count_parameters(config: ModelConfig) -> int:
    """Count the weights of the matrices (norms, biases and sinks left out)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads + config.num_key_value_heads
    attention = 2 * hidden * heads * config.head_dim
    experts = config.num_local_experts * (3 * hidden * inner + hidden)
    vocabulary = 2 * config.vocab_size * hidden
    return config.num_hidden_layers * (attention + experts) + vocabulary


def parse_quantization(
    raw: Mapping[str, Any],
) -> tuple[Quantization | None, dict[str, Quantization | None]]:
    """Read MLX's quantization settings from a parsed `config.json`.

    Returns the default and the settings of single modules by path (None where a module
    is said to stay unquantized). Hugging Face's own `quantization_config` of mxfp4
    experts gives (None, {}): there the tensors say it themselves.
    """
    settings = raw.get("quantization", raw.get("quantization_config"))
    if settings is None:
        return None, {}
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"`config.json` has `quantization` = {settings!r}, expected an object"
        )
    settings = cast("Mapping[str, Any]", settings)
    if "quantization" not in raw and "bits" not in settings:
        check_method(settings)
        return None, {}
    modules = {
        path: None if value is False else parse_setting(settings, value, path)
        for path, value in settings.items()
        if isinstance(value, Mapping | bool)
    }
    default = parse_setting({}, settings, "") if "bits" in settings else None
    return default, modules


def check_method(settings: Mapping[str, Any]) -> None:
    method = settings.get("quant_method")
    if method != "mxfp4":
        raise ConfigError(
            f"`config.json` has `quantization_config.quant_method` = {method!r}, "
            "expected `mxfp4`: use the checkpoint this one was quantized from"
        )


def parse_setting(default: Mapping[str, Any], value: Any, path: str) -> Quantization:
    """Read one module's bits, group size and mode; true means the default."""
    setting = cast("Mapping[str, Any]", default if value is True else value)
    where = f"quantization.{path}" if path else "quantization"
    mode = setting.get("mode", "affine")
    if mode not in QUANTIZATION_MODES:
        raise ConfigError(
            f"`config.json` has `{where}` in mode {mode!r}, expected one of "
            f"{', '.join(QUANTIZATION_MODES)}: convert it anew from the original"
        )
    bits: Any = setting.get("bits")
    group_size: Any = setting.get("group_size")
    all_bits, all_groups = QUANTIZATION_MODES[mode]
    if bits not in all_bits or group_size not in all_groups:
        raise ConfigError(
            f"`config.json` has `{where}` with bits {bits!r} and group_size "
            f"{group_size!r}, expected bits of {all_bits} and group_size of "
            f"{all_groups} in mode {mode}"
        )
    return Quantization(bits=bits, group_size=group_size, mode=mode)
