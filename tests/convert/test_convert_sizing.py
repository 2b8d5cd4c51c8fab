"""Requested sizes: the best recipe within them, or the reason there is none."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.cli import cli
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss_convert.plan.estimates import check_memory, estimate_plan, peak_bytes
from mlx_gptoss_convert.plan.plan import ConversionPlan, make_plan
from mlx_gptoss_convert.plan.recipe import KINDS, RECIPES, Recipe, affine, with_experts
from mlx_gptoss_convert.plan.sizing import (
    Planner,
    SizedRecipe,
    SizeLimit,
    choose,
    folder_bytes,
    frontier,
    loss_table,
    memory_limit,
    settings,
    size_recipes,
)
from mlx_gptoss_convert.write.conversion import convert
from tests.support.checkpoints import hf_config, random_tensors, write_folder
from tests.support.layout_writers import write_dense

CONFIG = hf_config(num_hidden_layers=2)
TENSORS = random_tensors(CONFIG, seed=9)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "hf", CONFIG, TENSORS)


@pytest.fixture(scope="module")
def points(source: Path) -> list[SizedRecipe]:
    return size_recipes(planner(source), RECIPES["q8"], loss_table())


def planner(source: Path) -> Planner:
    checkpoint = open_checkpoint(source)

    def plan_for(recipe: Recipe) -> ConversionPlan:
        return make_plan(checkpoint, recipe)

    return plan_for


def of_widths(points: list[SizedRecipe], *widths: int | None) -> SizedRecipe:
    wanted = settings(widths)
    return next(point for point in points if point.recipe.settings == wanted)


def test_sizes_are_those_of_the_plans_and_never_too_small(
    source: Path, points: list[SizedRecipe]
) -> None:
    for widths in [(8,) * 4, (None,) * 4, (4, 6, 8, 5), (None, 4, 5, 6)]:
        point = of_widths(points, *widths)
        plan = planner(source)(point.recipe)
        assert 0 <= point.nbytes - folder_bytes(plan) <= 16 * 1024, widths


def test_the_folder_is_not_larger_than_was_asked_for(
    source: Path, points: list[SizedRecipe], tmp_path: Path
) -> None:
    wanted = of_widths(points, 6, 6, 6, 6).nbytes
    found = choose(frontier(points), SizeLimit(wanted, "asked"))
    convert(planner(source)(found.recipe), tmp_path / "dst")
    assert sum(path.stat().st_size for path in (tmp_path / "dst").iterdir()) <= wanted


def test_the_choice_is_the_best_of_all_that_fit(points: list[SizedRecipe]) -> None:
    for limit in range(700_000, 1_400_000, 50_000):
        fitting = [point for point in points if point.nbytes <= limit]
        if fitting:
            found = choose(frontier(points), SizeLimit(limit, "asked"))
            assert found.nbytes <= limit
            assert found.loss == min(point.loss for point in fitting)


def test_the_frontier_goes_down_in_loss_as_it_goes_up_in_size(
    points: list[SizedRecipe],
) -> None:
    found = frontier(points)
    assert found == sorted(found, key=lambda point: -point.loss)
    assert [found[0].recipe.settings, found[-1].recipe.settings] == [
        RECIPES["q4"].settings,
        RECIPES["lossless"].settings,
    ]


def test_the_embedding_gives_way_before_lm_head_and_that_before_attention(
    points: list[SizedRecipe],
) -> None:
    embed, head, q = (of_widths(points, *widths) for widths in ONE_AT_FOUR)
    assert embed.loss < head.loss < q.loss


ONE_AT_FOUR = [(4, 8, 8, 8), (8, 4, 8, 8), (8, 8, 4, 8)]


def test_measured_losses_take_the_place_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    nats = {kind: {"8": 0.001, "4": 0.1} for kind in KINDS} | {"embed": {"4": 3.0}}
    path.write_text(json.dumps({"kl": nats}))
    table = loss_table(path)
    assert (table["q"][None], table["q"][8], table["q"][4]) == (0.0, 0.001, 0.1)
    assert table["embed"][4] == 3.0 > table["embed"][6] > table["embed"][8] > 0


@pytest.mark.parametrize(
    "text", ["", "{}", '{"kl": 3}', '{"kl": {"q": {"7": 1}}}', '{"kl": {"q": {}}}']
)
def test_a_calibration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ConversionError, match=r"calibration\.json"):
        loss_table(path)


def test_what_the_source_has_in_fewer_bits_costs_nothing_more(
    source: Path, tmp_path: Path
) -> None:
    convert(planner(source)(RECIPES["q6"]), tmp_path / "q6")
    found = size_recipes(planner(tmp_path / "q6"), RECIPES["q8"], loss_table())
    assert of_widths(found, 8, 8, 8, 8).loss == 0
    assert of_widths(found, 8, 8, 8, 5).loss > 0


def test_nothing_fits_a_room_smaller_than_the_experts(
    points: list[SizedRecipe],
) -> None:
    with pytest.raises(ConversionError, match=r"no recipe fits .* `--expert-bits 3`"):
        choose(frontier(points), SizeLimit(100_000, "asked"))


def test_three_bit_experts_make_the_smallest_smaller(
    tmp_path: Path, points: list[SizedRecipe]
) -> None:
    config = hf_config(num_hidden_layers=2, intermediate_size=128)
    folder = write_folder(tmp_path / "hf", config, random_tensors(config, seed=1))
    plan_for = planner(folder)
    small, usual = (
        frontier(size_recipes(plan_for, recipe, loss_table()))[0].nbytes
        for recipe in (with_experts(RECIPES["q8"], bits=3), RECIPES["q8"])
    )
    assert small < usual


def published(layers: int, experts: int) -> ModelConfig:
    return ModelConfig.from_dict(
        hf_config(
            num_hidden_layers=layers,
            num_local_experts=experts,
            num_experts_per_tok=4,
            hidden_size=2880,
            intermediate_size=2880,
            num_attention_heads=64,
            num_key_value_heads=8,
            sliding_window=128,
            vocab_size=201088,
        )
    )


def test_a_mac_of_16_gb_has_room_for_gpt_oss_20b_in_four_bits() -> None:
    room = memory_limit(published(24, 32), 16 * 10**9)
    assert 11.18e9 < room.nbytes < 11.63e9  # q4 and q6 of the published shapes
    assert "8,192 tokens" in room.why


def test_longer_contexts_leave_less_room() -> None:
    config = published(24, 32)
    assert (
        memory_limit(config, 10**10, 65536).nbytes < memory_limit(config, 10**10).nbytes
    )


def test_memory_is_bounded_for_dense_experts_of_the_published_shape(
    tmp_path: Path, source: Path
) -> None:
    write_dense(tmp_path / "dense", CONFIG, TENSORS)
    dense = planner(tmp_path / "dense")(RECIPES["q8"])
    kept = planner(source)(RECIPES["q8"])
    assert peak_bytes(kept) < peak_bytes(dense) < 10**9
    # Four float32 copies of gate and up of one expert of gpt-oss, and the slices.
    assert peak_bytes(kept) + 4 * 4 * 5760 * 2880 < 10**9


def test_a_conversion_that_may_need_more_memory_than_allowed_is_refused(
    source: Path,
) -> None:
    plan = planner(source)(RECIPES["q8"])
    with pytest.raises(ConversionError, match=r"allow more with `--max-memory`"):
        check_memory(plan, 10**6)


def test_an_estimate_is_said_in_words(source: Path) -> None:
    found = estimate_plan(planner(source)(RECIPES["q4"]))
    assert 0 < found.seconds < 60
    assert "of memory" in str(found)


def command(source: Path, dst: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["convert", str(source), str(dst), *options])


def test_a_target_size_prints_the_frontier_then_converts(
    source: Path, points: list[SizedRecipe], tmp_path: Path
) -> None:
    limit = of_widths(points, 5, 5, 6, 6).nbytes
    result = command(source, tmp_path / "dst", "--target-size", str(limit))
    lines = result.stdout.splitlines()
    assert (result.exit_code, lines[0].startswith("room for ")) == (0, True)
    assert sum(line.startswith(">") for line in lines) == 1
    found = open_checkpoint(tmp_path / "dst").structure.quantization
    assert found["model.layers.0.self_attn.q_proj"] in {affine(6), affine(8)}


def test_a_frontier_as_json_is_one_event(source: Path, tmp_path: Path) -> None:
    options = ["--fit-memory", "8GB", "--dry-run", "--json"]
    result = command(source, tmp_path / "dst", *options)
    first, *_, last = (json.loads(line) for line in result.stdout.splitlines())
    assert first["event"] == "frontier"
    assert first["chosen"]["recipe"]["embed"] is None  # everything fits
    assert {"seconds", "memory"} <= set(last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-size", "100kB"], "no recipe fits 100 kB"),
        (["--fit-memory", "1kB"], "no recipe fits"),
        (["--target-size", "1GB", "--recipe", "q4"], "leave `--recipe` out"),
        (["--target-size", "1GB", "--to", "hf"], "MLX folders"),
        (["--max-memory", "1MB"], "--max-memory"),
        (["--calibration", "x.json"], "--target-size"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(
    source: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = command(source, tmp_path / "dst", *options)
    assert (result.exit_code, message in result.stderr) == (1, True), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
