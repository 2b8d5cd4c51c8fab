"""How a run computes is decided from sizes: the fastest way that fits."""

from typing import Any

import pytest

from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import Budget, PlannedModel
from mlx_gptoss.memory.published_models import find_published_model
from mlx_gptoss.memory.sizes import recipe_parts
from mlx_gptoss.memory.training import TrainingPlan
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.planning import (
    BatchSize,
    TunePlanner,
    decoded_bytes,
    forecast_tuning,
    trained_values,
)
from tests.support.checkpoints import hf_config

CONFIG = ModelConfig.from_dict(hf_config())
MODEL = PlannedModel("tiny", CONFIG, recipe_parts(CONFIG, "lossless", float_bytes=4), 4)
SIZES = [BatchSize((300, 200), 250), BatchSize((100,), 90)]
PLENTY = 10**12


def planner(
    bytes_: int = PLENTY, *, can_decode: bool = True, **options: Any
) -> TunePlanner:
    budget = Budget(bytes_, PLENTY, "the memory of this test")
    return TunePlanner(MODEL, TuneOptions(**options), budget, can_decode=can_decode)


def way(plan: TrainingPlan) -> tuple[bool, bool]:
    return plan.load.decoded, plan.load.checkpointed


def test_the_largest_batch_is_planned() -> None:
    assert planner().plan(SIZES).load.lengths == (300, 200)


def test_with_room_experts_are_decoded_and_activations_kept() -> None:
    assert way(planner().plan(SIZES)) == (True, False)
    assert way(planner(can_decode=False).plan(SIZES)) == (False, False)


def test_with_less_room_a_slower_way_is_taken() -> None:
    """Each way is taken where its own bytes are the limit, and no faster one there."""
    asked: list[dict[str, Any]] = [
        {"decode": decode, "checkpointing": checkpointing}
        for decode, checkpointing in (
            ("on", "off"),
            ("on", "on"),
            ("off", "off"),
            ("off", "on"),
        )
    ]
    plans = [planner(**one).plan(SIZES) for one in asked]
    for plan in plans:
        found = planner(plan.total_bytes).plan(SIZES)
        assert found.fits
        faster = [each for each in plans if each.total_bytes <= plan.total_bytes]
        assert way(found) == way(faster[0])


def test_what_was_asked_for_is_taken_whether_it_fits_or_not() -> None:
    found = planner(10**6, decode="on", checkpointing="off").plan(SIZES)
    assert way(found) == (True, False) and not found.fits


def test_checkpointing_keeps_less() -> None:
    kept, again = (
        planner(checkpointing=choice).plan(SIZES).activation_bytes
        for choice in ("off", "on")
    )
    assert again < kept


def test_fewer_layers_and_tokens_need_less() -> None:
    all_layers = planner().plan(SIZES).activation_bytes
    assert planner(layers=1).plan(SIZES).activation_bytes < 0.6 * all_layers
    assert planner().plan(SIZES[1:]).activation_bytes < all_layers / 3


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    fitting = planner(checkpointing="on", decode="off").plan([BatchSize((250,), 125)])
    tight = planner(fitting.total_bytes + 1000)
    plan = tight.plan(SIZES)
    with pytest.raises(MemoryBudgetError) as caught:
        tight.require_fit(plan)
    line = str(caught.value)
    assert line.startswith("training `tiny` needs ")
    assert (
        "(the memory of this test): use `--checkpointing on --batch-tokens 250" in line
    )


def test_where_nothing_would_fit_the_line_says_so() -> None:
    tight = planner(10**6)
    with pytest.raises(MemoryBudgetError, match="use a smaller model or more memory"):
        tight.require_fit(tight.plan(SIZES))


def test_a_plan_that_fits_is_not_refused() -> None:
    found = planner()
    found.require_fit(found.plan(SIZES))


def test_trained_values_are_counted() -> None:
    M, D = CONFIG.hidden_size, CONFIG.head_dim
    q, k = CONFIG.num_attention_heads * D, CONFIG.num_key_value_heads * D
    layer = 4 * ((M + q) + 2 * (M + k) + (q + M))
    options = TuneOptions(rank=4)
    assert trained_values(CONFIG, options) == CONFIG.num_hidden_layers * layer


def test_updates_of_the_120b_s_experts_are_a_billion_numbers_at_rank_16() -> None:
    shape = find_published_model("openai/gpt-oss-120b")
    assert shape is not None
    options = TuneOptions(target=("experts",), rank=16)
    layer = 16 * 128 * ((2880 + 5760) + (2880 + 2880))
    assert trained_values(shape.config, options) == 36 * layer


def test_every_target_is_forecast_in_every_way() -> None:
    budget = Budget(PLENTY, PLENTY, "the memory of this test")
    rows = forecast_tuning(MODEL, TuneOptions(rank=2), budget, can_decode=True)
    assert [row.target for row in rows[::4]] == ["attention", "experts", "all"]
    assert len({(row.target, *way(row.plan)) for row in rows}) == 12
    plain = forecast_tuning(MODEL, TuneOptions(), budget, can_decode=False)
    assert len(plain) == 6


def test_decoded_weights_take_four_bytes_each_but_the_embedding() -> None:
    parts = recipe_parts(CONFIG, "q4", float_bytes=4)
    whole = recipe_parts(CONFIG, "lossless", float_bytes=4)
    M, F = CONFIG.hidden_size, CONFIG.intermediate_size
    experts = CONFIG.num_hidden_layers * CONFIG.num_local_experts
    rest = sum(whole[part] for part in ("attention", "router", "norms", "lm_head"))
    dense = 4 * experts * (3 * M * F + 2 * F + M)
    assert decoded_bytes(CONFIG, parts) == rest + dense + parts["embedding"]
