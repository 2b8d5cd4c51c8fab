"""Rotary settings of `config.json` in their three forms.

`rope_scaling` (transformers 4), `rope_parameters` (transformers 5), and the flat keys
of OpenAI's `original/config.json`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config.keys import check_supported, read_positive

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
# Top-level keys, and the same settings' names within the object.
FLAT_KEYS = {
    "rope_theta": "rope_theta",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "rope_scaling_factor": "factor",
    "rope_ntk_alpha": "beta_slow",
    "rope_ntk_beta": "beta_fast",
}


@dataclass(frozen=True)
class RopeScaling:
    """YaRN settings; `truncate` rounds the ramp's bounds (gpt-oss does not)."""

    rope_type: str
    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    truncate: bool


def read_rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Read the rotary base and its YaRN settings from any of the three forms.

    Raises ConfigError if two forms are present and disagree: tools differ in which one
    wins (transformers 5 takes `rope_scaling`).
    """
    if raw.get("rope_parameters") is not None:
        where, settings = "rope_parameters.", raw["rope_parameters"]
    elif "rope_scaling" in raw:
        where, settings = "rope_scaling.", raw["rope_scaling"]
    else:
        where, settings = "", original_rope(raw)
    if settings is None:
        return check_theta(read_positive(raw, "rope_theta", 150_000.0)), None
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"`config.json` has `{where[:-1]}` = {settings!r}, expected an object"
        )
    settings = cast("Mapping[str, Any]", settings)
    theta = read_positive(
        settings, "rope_theta", read_positive(raw, "rope_theta", 150_000.0), where=where
    )
    scaling = read_rope_scaling(settings, raw, where)
    if where:
        check_spellings(raw, where, settings, scaling)
    return check_theta(theta), scaling


def check_spellings(
    raw: Mapping[str, Any],
    where: str,
    settings: Mapping[str, Any],
    scaling: RopeScaling | None,
) -> None:
    """Raise ConfigError if another form of a setting has a different value."""
    said = dict(settings) if scaling is None else {**settings, **asdict(scaling)}
    other = raw.get("rope_scaling") if where == "rope_parameters." else None
    if isinstance(other, Mapping):
        other = cast("Mapping[str, Any]", other)
        found = read_rope_scaling(other, raw, "rope_scaling.")
        again = dict(other) if found is None else {**other, **asdict(found)}
        again.setdefault("rope_type", again.pop("type", "default"))
        said.setdefault("rope_type", "default")
        for key, value in again.items():
            if key in said:
                check_same((where + key, said[key]), ("rope_scaling." + key, value))
    for key, name in FLAT_KEYS.items():
        if raw.get(key) is not None and name in said:
            check_same((where + name, said[name]), (key, raw[key]))


def check_same(one: tuple[str, Any], other: tuple[str, Any]) -> None:
    if one[1] != other[1]:
        raise ConfigError(
            f"`config.json` has `{one[0]}` = {one[1]!r:.80} but `{other[0]}` = "
            f"{other[1]!r:.80}: both mean the same, correct one of them"
        )


def check_theta(theta: float) -> float:
    if theta <= 1:
        raise ConfigError(f"`config.json` has `rope_theta` = {theta}, expected above 1")
    return theta


def original_rope(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Convert the flat keys of `original/config.json` to a `rope_scaling` object."""
    factor = read_positive(raw, "rope_scaling_factor", 32.0)
    if factor <= 1:  # the reference scales only above 1
        return None
    original = "original_max_position_embeddings"
    return {
        "rope_type": "yarn",
        "factor": factor,
        original: raw.get(original, raw.get("initial_context_length", 4096)),
        "beta_slow": raw.get("rope_ntk_alpha", 1.0),
        "beta_fast": raw.get("rope_ntk_beta", 32.0),
        "truncate": False,
    }


def read_rope_scaling(
    settings: Mapping[str, Any], raw: Mapping[str, Any], where: str
) -> RopeScaling | None:
    kind = settings.get("rope_type", settings.get("type"))
    if settings.get("type") is not None:  # the name in older tools; mlx-lm reads it
        check_same((where + "rope_type", kind), (where + "type", settings["type"]))
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
            "an unsupported way: use a gpt-oss checkpoint"
        )
    original = settings.get(
        "original_max_position_embeddings", raw.get("initial_context_length")
    )
    if type(original) is not int or not 0 < original <= 1 << 31:
        raise ConfigError(
            f"`config.json` has `{where}original_max_position_embeddings` = "
            f"{original!r}, expected a positive integer"
        )
    truncate = settings.get("truncate", True)  # transformers' default
    if type(truncate) is not bool:
        raise ConfigError(
            f"`config.json` has `{where}truncate` = {truncate!r}, expected true or "
            "false"
        )
    scaling = RopeScaling(
        rope_type="yarn",
        factor=read_positive(settings, "factor", where=where),
        original_max_position_embeddings=original,
        beta_fast=read_positive(settings, "beta_fast", 32.0, where=where),
        beta_slow=read_positive(settings, "beta_slow", 1.0, where=where),
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
