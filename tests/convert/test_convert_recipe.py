from pathlib import Path

import pytest

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4
from mlx_gptoss_convert.plan.recipe import (
    HALF,
    KINDS,
    RECIPES,
    Recipe,
    affine,
    check_recipe,
    fit_columns,
    kind_of,
    open_recipe,
    parse_recipe,
    with_experts,
)

LAYER = "model.layers.11."


def test_the_named_recipes_differ_only_in_bits() -> None:
    bits = {
        name: {setting and setting.bits for setting in recipe.settings.values()}
        for name, recipe in RECIPES.items()
    }
    assert bits == {"lossless": {None}, "q8": {8}, "q6": {6}, "q4": {4}}


@pytest.mark.parametrize(
    "module",
    [
        LAYER + "mlp.router",
        LAYER + "self_attn.sinks",
        LAYER + "input_layernorm",
        LAYER + "mlp.experts.down_proj",
        "model.norm",
    ],
)
def test_no_recipe_touches_router_norms_sinks_or_experts(module: str) -> None:
    assert [recipe.setting(module) for recipe in RECIPES.values()] == [None] * 4


def test_every_kind_is_found_by_its_module_path() -> None:
    modules = [
        "model.embed_tokens",
        "lm_head",
        *(f"{LAYER}self_attn.{x}_proj" for x in "qkvo"),
    ]
    assert [kind_of(module) for module in modules] == list(KINDS)


def test_a_recipe_file_sets_kinds_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('default = 8\nembed = "bf16"\no = {bits = 4, group_size = 32}\n')
    recipe = open_recipe(str(path))
    assert (recipe.name, recipe.settings) == (
        "mine",
        {
            "embed": None,
            "lm_head": affine(8),
            "q": affine(8),
            "k": affine(8),
            "v": affine(8),
            "o": affine(4, 32),
        },
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("router = 8", "unknown key `router`"),
        ("embed = 7", "has the setting 7"),
        ("embed = true", "has the setting True"),
        ("embed = {bits = 8, mode = 1}", "has the setting"),
        ("embed = ", "cannot read recipe"),
    ],
)
def test_a_wrong_recipe_file_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConversionError, match=message):
        open_recipe(str(path))


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ConversionError, match="lossless, q8, q6, q4"):
        open_recipe("q5")


def test_groups_shrink_where_rows_ask_for_it() -> None:
    fitted = [fit_columns(affine(8), columns) for columns in (2880, 96, 48)]
    assert fitted == [affine(8), affine(8, 32), None]


def test_a_recipe_file_knows_modes_and_experts() -> None:
    raw = {
        "default": "mxfp4",
        "q": {"bits": 5, "mode": "affine", "group_size": 128},
        "o": "fp16",
        "experts": 3,
    }
    recipe = parse_recipe(raw, "mine")
    assert (recipe.settings["q"], recipe.settings["o"]) == (affine(5, 128), HALF)
    assert (recipe.settings["embed"], recipe.experts) == (MXFP4, affine(3))


@pytest.mark.parametrize(
    "raw",
    [
        {"q": {"mode": "nvfp4"}},
        {"q": {"mode": "mxfp4", "bits": 8}},
        {"q": 3},
        {"experts": 2},
        {"experts": "bf16"},
    ],
)
def test_settings_there_are_not_are_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ConversionError, match=r"recipe `mine` (has the setting|wants)"):
        parse_recipe(raw, "mine")


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (with_experts(RECIPES["q8"], bits=4), "4.5 bits per weight where MXFP4 takes"),
        (with_experts(RECIPES["q8"], bits=8), "keep MXFP4"),
        (parse_recipe({"embed": "fp16"}, "mine"), "half precision"),
    ],
)
def test_what_only_harms_is_refused_unless_forced(recipe: Recipe, reason: str) -> None:
    check_recipe(recipe, force=True)
    with pytest.raises(ConversionError, match=reason):
        check_recipe(recipe, force=False)


def test_three_bit_experts_and_mxfp4_need_no_force() -> None:
    check_recipe(with_experts(RECIPES["q4"], bits=3), force=False)
    check_recipe(with_experts(RECIPES["q4"], mxfp4=True), force=False)


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_affine_experts_are_for_mlx_folders(to: str) -> None:
    check_recipe(with_experts(RECIPES["q8"], mxfp4=True), force=False, to=to)
    with pytest.raises(ConversionError, match="for MLX folders"):
        check_recipe(with_experts(RECIPES["q8"], bits=3), force=True, to=to)


def test_experts_cannot_be_asked_for_twice() -> None:
    with pytest.raises(ConversionError, match="exclude each other"):
        with_experts(RECIPES["q4"], bits=3, mxfp4=True)


def test_experts_are_never_given_bits_back() -> None:
    recipe = with_experts(RECIPES["q4"], bits=4)
    found = [None, MXFP4, affine(3), affine(8)]
    settled = [recipe.expert_setting(setting) for setting in found]
    assert settled == [affine(4), affine(4), affine(3), affine(4)]
