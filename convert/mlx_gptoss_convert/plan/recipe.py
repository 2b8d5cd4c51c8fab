"""Recipes as data: how many bits each kind of tensor is stored in.

A recipe sets the bits of attention, embedding and lm_head. Experts stay unchanged
unless the recipe names them; the router, norms, sinks and biases are never quantized.
Knows names and numbers, not arrays.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.layout import EXPERTS

# The kinds of tensors a recipe sets, and the ends of their module paths.
KINDS = {
    "embed": "model.embed_tokens",
    "lm_head": "lm_head",
    "q": ".self_attn.q_proj",
    "k": ".self_attn.k_proj",
    "v": ".self_attn.v_proj",
    "o": ".self_attn.o_proj",
}
BITS = (4, 5, 6, 8)
EXPERT_BITS = (3, 4, 5, 6, 8)  # all but the first need `--force`
GROUP_SIZES = (64, 32, 128)  # the first is the default
MODES = ("affine", "mxfp4")  # the first is the default
DENSE = "bf16"
FP16 = "fp16"
HALF = Quantization(bits=16, group_size=1, mode="float16")
DEFAULT = "q8"

# Bits of the scale (and bias) of one group.
OVERHEAD_BITS = {"affine": 32, "mxfp4": 8}
# Relative rms error of MXFP4 experts requantized as affine, by bits, in groups of 64.
EXPERT_ERRORS = {3: 0.19, 4: 0.09, 5: 0.046, 6: 0.023, 8: 0.006}


@dataclass(frozen=True)
class Recipe:
    """The setting of each kind of tensor; None means dense floats.

    With `experts` None, packed experts stay unchanged and dense ones become MXFP4.
    """

    name: str
    settings: Mapping[str, Quantization | None]
    experts: Quantization | None = None

    def setting(self, module: str) -> Quantization | None:
        """Return the setting of a module such as `model.layers.0.self_attn.q_proj`."""
        kind = kind_of(module)
        return None if kind is None else self.settings[kind]

    def expert_setting(self, source: Quantization | None) -> Quantization:
        """Return the setting of experts whose setting in the source is `source`.

        None means dense. Affine experts never get more bits: that restores nothing.
        """
        wanted = self.experts or source or MXFP4
        if source is None or source.mode != wanted.mode:
            return wanted
        return wanted if wanted.bits < source.bits else source


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
    """Return the kind of a module, or None if recipes do not set it."""
    return next((kind for kind, end in KINDS.items() if module.endswith(end)), None)


def open_recipe(text: str) -> Recipe:
    """Return a recipe by name, or read it from a TOML file.

    Raises ConversionError for an unknown name and for an invalid file.
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
    """Build a recipe from a parsed file with the keys `default`, `experts` and `KINDS`.

    A value is "bf16", a number of bits, "mxfp4", or a table {bits, group_size, mode}.
    """
    unknown = sorted(set(raw) - set(KINDS) - {"default", EXPERTS})
    if unknown:
        raise ConversionError(
            f"recipe `{name}` has unknown key `{unknown[0]}`: use `default`, "
            + ", ".join(f"`{kind}`" for kind in (*KINDS, EXPERTS))
        )
    default = raw.get("default", DENSE)
    return Recipe(
        name,
        {kind: parse_setting(raw.get(kind, default), name) for kind in KINDS},
        parse_experts(raw[EXPERTS], name) if EXPERTS in raw else None,
    )


def parse_setting(
    value: Any, name: str, all_bits: tuple[int, ...] = BITS
) -> Quantization | None:
    """Parse one value of a recipe file; None means dense."""
    if value in (DENSE, FP16):
        return None if value == DENSE else HALF
    table: Any = {"mode": value} if value in MODES else value
    table = table if isinstance(table, Mapping) else {"bits": table}
    setting = read_table(table, all_bits)
    if setting is None:
        raise ConversionError(
            f"recipe `{name}` has the setting {value!r}: use `{DENSE}`, bits of "
            f"{all_bits}, `{MXFP4.mode}`, or a table of `bits`, `group_size` of "
            f"{sorted(GROUP_SIZES)} and `mode` of {', '.join(MODES)}"
        )
    return setting


def read_table(
    table: Mapping[str, Any], all_bits: tuple[int, ...]
) -> Quantization | None:
    """Parse {bits, group_size, mode}; return None if it is not a valid setting."""
    mode = table.get("mode", MODES[0])
    default = MXFP4 if mode == MXFP4.mode else affine(0)
    bits: Any = table.get("bits", default.bits)
    group_size: Any = table.get("group_size", default.group_size)
    numbers = type(bits) is int and type(group_size) is int
    if not numbers or mode not in MODES or set(table) - {"bits", "group_size", "mode"}:
        return None
    setting = Quantization(bits=bits, group_size=group_size, mode=mode)
    if mode == MXFP4.mode:
        return setting if setting == MXFP4 else None
    return setting if bits in all_bits and group_size in GROUP_SIZES else None


def parse_experts(value: Any, name: str) -> Quantization:
    setting = parse_setting(value, name, EXPERT_BITS)
    if setting is None or setting == HALF:
        raise ConversionError(
            f"recipe `{name}` wants dense experts, which are three times as large: "
            f"leave `{EXPERTS}` out, or use `{MXFP4.mode}` or 3 bits"
        )
    return setting


def with_experts(
    recipe: Recipe, *, bits: int | None = None, mxfp4: bool = False
) -> Recipe:
    """Replace the setting of experts, as the command line asks.

    Raises ConversionError if it asks for both.
    """
    if bits is not None and mxfp4:
        raise ConversionError(
            "`--expert-bits` and `--expert-format mxfp4` exclude each other: use one"
        )
    if bits is None and not mxfp4:
        return recipe
    return replace(recipe, experts=MXFP4 if bits is None else affine(bits))


def for_classifier(recipe: Recipe) -> tuple[Recipe, bool]:
    """Return a recipe for a token classifier, and whether its experts stay dense.

    Its experts were trained as floats, so they take the setting of the attention.
    """
    setting = recipe.settings["q"]
    if setting is None or setting == HALF:
        return recipe, True
    return replace(recipe, experts=setting), False


def bits_per_weight(setting: Quantization) -> float:
    """Return the bits per weight, including its share of scale and bias."""
    return setting.bits + OVERHEAD_BITS[setting.mode] / setting.group_size


def refusal(recipe: Recipe) -> str | None:
    """Return why a recipe needs `--force`, or None if it does not."""
    experts = recipe.experts
    if experts is not None and experts.mode == "affine" and experts.bits != 3:
        return (
            f"affine {experts.bits}-bit experts take {bits_per_weight(experts):g} bits "
            f"per weight where MXFP4 takes {bits_per_weight(MXFP4):g}, and change them "
            f"by {EXPERT_ERRORS[experts.bits]:.1%}: keep MXFP4, which loses nothing"
        )
    if HALF in recipe.settings.values():
        return (
            "half precision (fp16) ends at 65504 and gpt-oss was trained in bfloat16, "
            "whose range its activations use: take `bf16`, of the same size"
        )
    return None


def check_recipe(recipe: Recipe, *, force: bool, to: str = "mlx") -> None:
    """Raise ConversionError for an impossible recipe, or a harmful unforced one."""
    if to != "mlx" and recipe.experts is not None and recipe.experts != MXFP4:
        raise ConversionError(
            "affine experts are for MLX folders: leave `--to` or `--expert-bits` out"
        )
    reason = refusal(recipe)
    if reason is not None and not force:
        raise ConversionError(f"{reason} (`--force` does it anyway)")


def fit_columns(setting: Quantization, columns: int) -> Quantization | None:
    """Return `setting`, with a smaller group if its own does not divide `columns`.

    Returns None if no group size does; the tensor then stays dense.
    """
    for group_size in (setting.group_size, min(GROUP_SIZES)):
        if columns % group_size == 0:
            return replace(setting, group_size=group_size)
    return None
