"""Recipes as data: which kind of tensor is stored in how many bits.

Only the rest of the weights has a choice. Experts stay as they are; the router,
norms, sinks and biases are never quantized. Knows names and numbers, no arrays.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gptoss.config import Quantization
from mlx_gptoss.errors import ConversionError

# The kinds with a choice, and the end of the module path that says so.
KINDS = {
    "embed": "model.embed_tokens",
    "lm_head": "lm_head",
    "q": ".self_attn.q_proj",
    "k": ".self_attn.k_proj",
    "v": ".self_attn.v_proj",
    "o": ".self_attn.o_proj",
}
BITS = (4, 5, 6, 8)
GROUP_SIZES = (64, 32, 128)  # the first is the default
DENSE = "bf16"
DEFAULT = "q8"


@dataclass(frozen=True)
class Recipe:
    """What becomes of each kind of tensor; None leaves it as dense floats."""

    name: str
    settings: Mapping[str, Quantization | None]

    def setting(self, module: str) -> Quantization | None:
        """Say how `module` ("model.layers.0.self_attn.q_proj") is to be stored."""
        kind = kind_of(module)
        return None if kind is None else self.settings[kind]


def affine(bits: int, group_size: int = GROUP_SIZES[0]) -> Quantization:
    return Quantization(bits=bits, group_size=group_size, mode="affine")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("lossless", dict.fromkeys(KINDS)),
        Recipe("q8", dict.fromkeys(KINDS, affine(8))),
        Recipe("q6", dict.fromkeys(KINDS, affine(6))),
        Recipe("q4", dict.fromkeys(KINDS, affine(4))),
    )
}


def kind_of(module: str) -> str | None:
    """Name the kind of a module path, or None where there is no choice."""
    return next((kind for kind, end in KINDS.items() if module.endswith(end)), None)


def open_recipe(text: str) -> Recipe:
    """Return a recipe by name, or read it from a TOML file.

    Raises ConversionError for an unknown name and for a file that is no recipe.
    """
    if text in RECIPES:
        return RECIPES[text]
    if not text.endswith(".toml"):
        raise ConversionError(
            f"no recipe `{text}`: use {', '.join(RECIPES)} or a path to a TOML file"
        )
    try:
        raw = tomllib.loads(Path(text).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConversionError(f"cannot read recipe `{text}`: {error}") from error
    return parse_recipe(raw, Path(text).stem)


def parse_recipe(raw: Mapping[str, Any], name: str) -> Recipe:
    """Read a parsed recipe file: `default` and any of `KINDS` as keys.

    A value is "bf16", a number of bits, or a table {bits, group_size}.
    """
    unknown = sorted(set(raw) - set(KINDS) - {"default"})
    if unknown:
        raise ConversionError(
            f"recipe `{name}` has unknown key `{unknown[0]}`: use `default`, "
            + ", ".join(f"`{kind}`" for kind in KINDS)
        )
    default = raw.get("default", DENSE)
    return Recipe(
        name, {kind: parse_setting(raw.get(kind, default), name) for kind in KINDS}
    )


def parse_setting(value: Any, name: str) -> Quantization | None:
    if value == DENSE:
        return None
    table = value if isinstance(value, Mapping) else {"bits": value}
    bits, group_size = table.get("bits"), table.get("group_size", GROUP_SIZES[0])
    numbers = type(bits) is int and type(group_size) is int
    known = numbers and set(table) <= {"bits", "group_size"}
    if not known or bits not in BITS or group_size not in GROUP_SIZES:
        raise ConversionError(
            f"recipe `{name}` has the setting {value!r}: use `{DENSE}`, bits of {BITS} "
            f"or a table of `bits` and `group_size` of {sorted(GROUP_SIZES)}"
        )
    return affine(bits, group_size)


def fit_columns(setting: Quantization, columns: int) -> Quantization | None:
    """Return `setting`, with a smaller group where `columns` asks for it, or None.

    None means that no group size divides the rows, so the tensor stays dense.
    """
    for group_size in (setting.group_size, min(GROUP_SIZES)):
        if columns % group_size == 0:
            return affine(setting.bits, group_size)
    return None
