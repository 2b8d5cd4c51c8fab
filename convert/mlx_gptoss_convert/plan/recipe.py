"""Recipes as data: which kind of tensor is stored in how many bits.

The rest of the weights has a choice; experts stay as they are unless a recipe says
otherwise; the router, norms, sinks and biases are never quantized. Knows names and
numbers, no arrays.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4, Quantization

# The kinds with a choice, and the end of the module path that says so.
KINDS = {
    "embed": "model.embed_tokens",
    "lm_head": "lm_head",
    "q": ".self_attn.q_proj",
    "k": ".self_attn.k_proj",
    "v": ".self_attn.v_proj",
    "o": ".self_attn.o_proj",
}
EXPERTS = "experts"
BITS = (4, 5, 6, 8)
EXPERT_BITS = (3, 4, 5, 6, 8)  # all but the first must be forced
GROUP_SIZES = (64, 32, 128)  # the first is the default
MODES = ("affine", "mxfp4")  # the first is the default
DENSE = "bf16"
HALF_NAME = "fp16"
HALF = Quantization(bits=16, group_size=1, mode="float16")  # floats, but fewer of them
DEFAULT = "q8"

# Bits that the scales (and biases) of a group add to every weight.
OVERHEAD_BITS = {"affine": 32, "mxfp4": 8}
# Relative rms error of affine experts made of MXFP4 ones, by bits, groups of 64.
EXPERT_ERRORS = {3: 0.19, 4: 0.09, 5: 0.046, 6: 0.023, 8: 0.006}


@dataclass(frozen=True)
class Recipe:
    """What becomes of each kind of tensor; None leaves it as dense floats.

    `experts` None keeps experts as they are, and makes dense ones MXFP4.
    """

    name: str
    settings: Mapping[str, Quantization | None]
    experts: Quantization | None = None

    def setting(self, module: str) -> Quantization | None:
        """Say how `module` ("model.layers.0.self_attn.q_proj") is to be stored."""
        kind = kind_of(module)
        return None if kind is None else self.settings[kind]

    def expert_setting(self, found: Quantization | None) -> Quantization:
        """Say how experts found so (None: dense) are to be stored.

        Affine ones are never given more bits: that would not bring back what is lost.
        """
        wanted = self.experts or found or MXFP4
        if found is None or found.mode != wanted.mode:
            return wanted
        return wanted if wanted.bits < found.bits else found


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
    """Read a parsed recipe file: `default`, `experts` and any of `KINDS` as keys.

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
    """Read one value of a recipe file."""
    if value in (DENSE, HALF_NAME):
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
    """Read {bits, group_size, mode}; None where that is no setting there is."""
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
    """Change what becomes of experts, as the command line may ask.

    Raises ConversionError where it asks for two things at once.
    """
    if bits is not None and mxfp4:
        raise ConversionError(
            "`--expert-bits` and `--expert-format mxfp4` exclude each other: use one"
        )
    if bits is None and not mxfp4:
        return recipe
    return replace(recipe, experts=MXFP4 if bits is None else affine(bits))


def bits_per_weight(setting: Quantization) -> float:
    """Return what a weight takes in all, the numbers of its group included."""
    return setting.bits + OVERHEAD_BITS[setting.mode] / setting.group_size


def refusal(recipe: Recipe) -> str | None:
    """Say why a recipe is not carried out unless it is forced; None if it is."""
    experts = recipe.experts
    if experts is not None and experts.mode == "affine" and experts.bits != 3:
        return (
            f"affine {experts.bits}-bit experts take {bits_per_weight(experts):g} bits "
            f"a weight where MXFP4 takes {bits_per_weight(MXFP4):g}, and change them "
            f"by {EXPERT_ERRORS[experts.bits]:.1%}: keep MXFP4, which loses nothing"
        )
    if HALF in recipe.settings.values():
        return (
            "half precision (fp16) ends at 65504 and gpt-oss was trained in bfloat16, "
            "whose range its activations use: take `bf16`, of the same size"
        )
    return None


def check_recipe(recipe: Recipe, *, force: bool, to: str = "mlx") -> None:
    """Raise ConversionError for what only harms, unless `force`, or cannot be."""
    if to != "mlx" and recipe.experts is not None and recipe.experts != MXFP4:
        raise ConversionError(
            "affine experts are for MLX folders: leave `--to` or `--expert-bits` out"
        )
    reason = refusal(recipe)
    if reason is not None and not force:
        raise ConversionError(f"{reason} (`--force` does it all the same)")


def fit_columns(setting: Quantization, columns: int) -> Quantization | None:
    """Return `setting`, with a smaller group where `columns` asks for it, or None.

    None means that no group size divides the rows, so the tensor stays dense.
    """
    for group_size in (setting.group_size, min(GROUP_SIZES)):
        if columns % group_size == 0:
            return replace(setting, group_size=group_size)
    return None
