"""The memory of adapters is counted before they are loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss import load
from mlx_gptoss.engine.adapter_memory import loaded_ranks, measure_folders
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import PACKED, matrices
from mlx_gptoss.memory import Budget, PlannedModel, plan_storage, require_fit
from mlx_gptoss.memory.adapters import adapter_bytes
from mlx_gptoss.memory.published_models import find_published_model
from tests.support.adapters import ALL, ATTENTION, EXPERTS, random_adapter
from tests.support.adapters import write_random_adapter as written

BFLOAT16 = 2
GIGABYTE = 10**9


def published(name: str) -> ModelConfig:
    found = find_published_model(name)
    assert found is not None
    return found.config


def ranks(config: ModelConfig, rank: int, targets: Sequence[str]) -> Mapping[str, int]:
    found = (each.path for each in matrices(config, PACKED))
    return {path: rank for path in found if path.rpartition(".")[2] in targets}


def test_rank_16_on_the_experts_of_the_120b_takes_2_gigabytes() -> None:
    config = published("openai/gpt-oss-120b")
    found = adapter_bytes(config, [ranks(config, 16, EXPERTS)], float_bytes=BFLOAT16)

    # Layers, experts, rank, and the inputs and outputs of gate_up and down.
    by_hand = 36 * 128 * 16 * ((2880 + 5760) + (2880 + 2880)) * BFLOAT16
    assert found == by_hand
    assert found / GIGABYTE == pytest.approx(2.1, abs=0.05)


def test_a_second_adapter_of_the_same_matrices_adds_the_stack_of_both() -> None:
    config = published("openai/gpt-oss-20b")
    one, two = ranks(config, 16, EXPERTS), ranks(config, 8, EXPERTS)
    alone = adapter_bytes(config, [one], float_bytes=BFLOAT16)
    both = adapter_bytes(config, [one, two], float_bytes=BFLOAT16)

    # Both as they were read, and stacked at rank 16 behind one matrix of zeros a layer.
    zeros = 24 * 16 * (8640 + 5760) * BFLOAT16
    assert both == alone + alone // 2 + 2 * alone + zeros


@pytest.mark.parametrize(
    "targets", [ATTENTION, ("q_proj",), ("o_proj", "router"), EXPERTS, ALL]
)
@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_what_is_planned_is_what_is_held(
    targets: Sequence[str], seeds: Sequence[int]
) -> None:
    with load("demo") as runtime:
        made = [
            random_adapter(runtime.config, seed, f"a{seed}", rank=seed, targets=targets)
            for seed in seeds
        ]
        planned = adapter_bytes(
            runtime.config, [loaded_ranks(one) for one in made], float_bytes=4
        )
        for one in made:
            runtime.add_adapter(one)
        held = runtime.run(held_bytes, runtime)

    if targets == ("q_proj",):  # its A is also that of q, k and v together
        assert 0.8 * planned < held <= planned
    else:
        assert held == planned


def held_bytes(runtime: Runtime) -> int:
    """The bytes of adapters and of what the model computes with, none twice."""
    arrays = [
        array
        for adapter in runtime.adapters.values()
        for update in adapter.updates.values()
        for array in (update.a, update.b)
    ]
    for modules in runtime.model._updates.layers().values():
        arrays += [array for one in modules.values() for array in one.arrays]
    mx.eval(arrays)
    sizes = {np.asarray(x).__array_interface__["data"][0]: x.nbytes for x in arrays}
    return sum(sizes.values())


def test_headers_tell_the_same_as_what_is_loaded(tmp_path: Path) -> None:
    with load("demo") as runtime:
        config = runtime.config
    folders = [
        written(tmp_path / "a", config, 1, targets=ALL),
        written(tmp_path / "b", config, 2, "mlx-lm", targets=("o_proj",), rank=5),
    ]
    given = [str(folder) for folder in folders]
    with load("demo", adapters=given) as runtime:
        assert runtime.plan is not None
        loaded = [loaded_ranks(one) for one in runtime.adapters.values()]
        counted = runtime.plan.adapter_bytes
    measured = measure_folders(folders, config, float_bytes=4)

    assert measured == counted
    assert counted == adapter_bytes(config, loaded, float_bytes=4)


def test_adapters_take_the_place_of_experts_where_they_do_not_fit_together() -> None:
    config = published("openai/gpt-oss-20b")
    size = adapter_bytes(config, [ranks(config, 64, EXPERTS)], float_bytes=BFLOAT16)
    parts = {"experts": 12 * GIGABYTE, "rest": 2 * GIGABYTE}
    model = PlannedModel("m", config, parts)
    adapted = PlannedModel("m", config, parts, adapter_bytes=size)
    budget = Budget(15 * GIGABYTE, 64 * GIGABYTE, "a test", metal=True)
    options = LoadOptions()
    plain = plan_storage(model, options, budget)
    streamed = plan_storage(adapted, options, budget)

    assert plain.mode == "resident"
    assert streamed.mode != "resident"
    assert streamed.adapter_bytes == size
    assert streamed.total_bytes <= budget.bytes


def test_the_refusal_names_what_adapters_take() -> None:
    config = published("openai/gpt-oss-20b")
    parts = {"experts": 12 * GIGABYTE, "rest": 2 * GIGABYTE}
    model = PlannedModel("m", config, parts, adapter_bytes=3 * GIGABYTE)
    budget = Budget(16 * GIGABYTE, 64 * GIGABYTE, "a test")
    plan = plan_storage(model, LoadOptions(experts="resident"), budget)

    with pytest.raises(MemoryBudgetError, match=r"14.0 GB of weights, 3.0 GB of adap"):
        require_fit(plan, config, "m")
