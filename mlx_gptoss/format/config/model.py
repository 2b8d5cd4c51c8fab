"""The sizes and constants of a model, checked against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config.keys import (
    SIZE_ALIASES,
    SIZE_LIMITS,
    SUPPORTED,
    check_supported,
    check_unknown,
    read_positive,
    read_size,
    read_token_ids,
)
from mlx_gptoss.format.config.labels import CLASSIFIER, read_labels
from mlx_gptoss.format.config.rope import RopeScaling, read_rope

FULL = "full_attention"
SLIDING = "sliding_attention"
BAND = "band_attention"  # `sliding_window` positions either way; of classifiers
MODEL_TYPES = ("gpt_oss", CLASSIFIER)

MAX_PARAMETERS = 10**13  # about a hundred times gpt-oss-120b


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
    # Of pruned models whose layers differ; `num_local_experts` is then the largest.
    experts_by_layer: tuple[int, ...] = ()
    # Of a token classifier, by number: it labels a text, and continues none.
    labels: tuple[str, ...] = ()

    @property
    def is_classifier(self) -> bool:
        """Whether it is a token classifier, such as openai/privacy-filter.

        Those read both ways, rotate neighbours, and store gate before up.
        """
        return bool(self.labels)

    @property
    def reach(self) -> int:
        """How many positions either way a label of a classifier depends on."""
        return self.num_hidden_layers * self.sliding_window

    def experts_in(self, layer: int) -> int:
        """Return the number of experts of one layer."""
        return (
            self.experts_by_layer[layer]
            if self.experts_by_layer
            else self.num_local_experts
        )

    @property
    def total_experts(self) -> int:
        """The number of experts of all layers."""
        return sum(map(self.experts_in, range(self.num_hidden_layers)))

    def of_layer(self, layer: int) -> "ModelConfig":
        """Return the config of a model all of whose layers are like this one."""
        if not self.experts_by_layer:
            return self
        experts = self.experts_by_layer[layer]
        return replace(self, num_local_experts=experts, experts_by_layer=())

    def with_experts(self, by_layer: Sequence[int]) -> "ModelConfig":
        """Return a config with these numbers of experts, one per layer."""
        differ = len(set(by_layer)) > 1
        found = replace(
            self,
            num_local_experts=max(by_layer),
            experts_by_layer=tuple(by_layer) if differ else (),
        )
        check_sizes_agree(found)
        return found

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], *, strict: bool = False, quiet: bool = False
    ) -> "ModelConfig":
        """Read a parsed `config.json`.

        Raises ConfigError for impossible sizes, unsupported maths and, when `strict`,
        for unknown keys (otherwise one warning names them, unless `quiet`).
        """
        check_supported(raw, SUPPORTED | {"model_type": find_model_type(raw)}, "")
        check_unknown(raw, strict=strict, quiet=quiet)
        layers = read_size(raw, "num_hidden_layers")
        rope_theta, rope_scaling = read_rope(raw)
        layer_types = read_layer_types(raw, layers)
        experts = read_experts(raw, layers)
        config = cls(
            num_hidden_layers=layers,
            hidden_size=read_size(raw, "hidden_size"),
            intermediate_size=read_size(raw, "intermediate_size"),
            head_dim=read_size(raw, "head_dim"),
            num_attention_heads=read_size(raw, "num_attention_heads"),
            num_key_value_heads=read_size(raw, "num_key_value_heads"),
            num_local_experts=max(experts),
            num_experts_per_tok=read_size(raw, "num_experts_per_tok"),
            vocab_size=read_size(raw, "vocab_size"),
            sliding_window=read_sliding_window(raw, layer_types),
            layer_types=layer_types,
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            rms_norm_eps=read_positive(raw, "rms_norm_eps", 1e-5),
            swiglu_limit=read_positive(raw, "swiglu_limit", 7.0),
            max_position_embeddings=read_context(raw, rope_scaling),
            eos_token_ids=read_token_ids(raw, "eos_token_id"),
            experts_by_layer=experts if len(set(experts)) > 1 else (),
            labels=read_labels(raw),
        )
        check_sizes_agree(config)
        return config


def find_model_type(raw: Mapping[str, Any]) -> str:
    """Return `model_type` if it is computed here, else gpt-oss's."""
    return next(
        (kind for kind in MODEL_TYPES if raw.get("model_type") == kind), "gpt_oss"
    )


def read_experts(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Read the number of experts of each layer: one number, or a list of them."""
    keys = ("num_local_experts", SIZE_ALIASES["num_local_experts"])
    found = next((raw[key] for key in keys if isinstance(raw.get(key), list)), None)
    if found is None:
        return (read_size(raw, keys[0]),) * layers
    numbers = cast("list[object]", found)
    if len(numbers) != layers:
        raise ConfigError(
            f"`config.json` has {len(numbers)} numbers of experts in "
            f"`num_local_experts` for {layers} `num_hidden_layers`: give one number, "
            "or one per layer"
        )
    return tuple(read_size({keys[0]: number}, keys[0]) for number in numbers)


def read_layer_types(raw: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """Read each layer's type; by default alternating, `sliding_attention` first."""
    kinds = raw.get("layer_types")
    if raw.get("model_type") == CLASSIFIER:
        return (BAND,) * layers
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
            "`num_hidden_layers`: give one type per layer"
        )
    return cast("tuple[str, ...]", names)


def read_sliding_window(raw: Mapping[str, Any], layer_types: tuple[str, ...]) -> int:
    """Read the window; it may be null in a model without sliding layers."""
    if raw.get("sliding_window") is None and SLIDING not in layer_types:
        return read_size({}, "sliding_window", 128)
    return read_size(raw, "sliding_window")


def read_context(raw: Mapping[str, Any], scaling: RopeScaling | None) -> int:
    """Read the maximum context; `original/` gives it as a product of two keys."""
    if "max_position_embeddings" in raw or scaling is None:
        return read_size(raw, "max_position_embeddings", 4096)
    product = scaling.factor * scaling.original_max_position_embeddings
    longest = SIZE_LIMITS["max_position_embeddings"]
    return read_size({}, "max_position_embeddings", int(min(product, longest)))


def check_sizes_agree(config: ModelConfig) -> None:
    """Raise ConfigError for sizes that contradict each other."""
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
    least = min(config.experts_by_layer or (config.num_local_experts,))
    if config.num_experts_per_tok > least:
        raise ConfigError(
            f"`config.json` has `num_experts_per_tok` = {config.num_experts_per_tok}, "
            f"more than `num_local_experts` = {least}"
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
    """Count the weights of the matrices, without norms, biases and sinks."""
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads + config.num_key_value_heads
    attention = 2 * hidden * heads * config.head_dim
    experts = config.total_experts * (3 * hidden * inner + hidden)
    vocabulary = 2 * config.vocab_size * hidden
    return config.num_hidden_layers * attention + experts + vocabulary
