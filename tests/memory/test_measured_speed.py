"""Predictions from measured costs: the sum, its bounds, and how they are kept."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import SLIDING
from mlx_gptoss.memory import (
    Budget,
    HitCurve,
    Machine,
    PlannedModel,
    Prediction,
    measure_workload,
    plan_storage,
    predict,
    recipe_parts,
)
from mlx_gptoss.memory.costs import Costs, CostTable, interpolate
from mlx_gptoss.memory.published_models import find_published_model
from mlx_gptoss.memory.saved_probe import (
    Probe,
    describe_this_machine,
    load_probe,
    save_probe,
)
from mlx_gptoss.memory.speed import Workload
from mlx_gptoss.memory.step_time import BitsPerWeight, decode_time, prefill_time
from tests.support.machine_costs import NANO, line, make_costs

GB = 10**9
PUBLISHED = find_published_model("gpt-oss-20b")
assert PUBLISHED is not None
CONFIG = PUBLISHED.config
FLOATS = BitsPerWeight(attention=32, head=32, experts=4.25)
PROBED = Machine("probed", 10 * GB, GB, costs=make_costs(), measured=True)


def workload(*, memory: float = 80e9, recipe: str = "lossless") -> Workload:
    parts = recipe_parts(CONFIG, recipe, float_bytes=4)
    model = PlannedModel("gpt-oss-20b", CONFIG, parts, float_bytes=4)
    plan = plan_storage(model, LoadOptions(), Budget(int(memory), 10**12, "a test"))
    return measure_workload(plan, CONFIG)


def predicted(
    work: Workload, curve: HitCurve | None = None, *, prompt: int = 1000
) -> Prediction:
    return predict(work, PROBED, curve or HitCurve(), prompt_tokens=prompt)


def test_a_step_is_the_sum_of_its_parts() -> None:
    M, H, Hk, D, F = 2880, 64, 8, 64, 2880
    found = decode_time(make_costs(), CONFIG, FLOATS, 999)
    attention = M * (H + 2 * Hk) * D + H * D * M + M * 32
    assert found.linear == pytest.approx((24 * attention + M * 201088) * NANO)
    assert found.experts == pytest.approx(24 * (1e-4 + 4 * 3 * M * F * 4 * NANO))
    assert found.attention == pytest.approx(H * (12 * 1000 + 12 * 128) * 1e-7)
    assert found.overhead == pytest.approx(24 * 2e-4 + 1e-3)


def test_a_prompt_costs_its_chunks_and_the_rows_they_see() -> None:
    one = replace(CONFIG, num_hidden_layers=1, layer_types=("full_attention",))
    costs = make_costs()
    found = prefill_time(costs, one, FLOATS, 256, 128)
    pairs = 128 * 128 + 128 * 256
    assert found.attention == pytest.approx(64 * pairs * costs.score)
    values = 2880 + 80 * 64
    assert found.overhead == pytest.approx(
        2 * (costs.layer + 127 * values * costs.value) + costs.step + costs.first
    )
    window = replace(one, layer_types=(SLIDING,))
    assert prefill_time(costs, window, FLOATS, 256, 128).attention < found.attention


def test_small_matrices_take_longer_where_no_cache_holds_all() -> None:
    small = replace(
        CONFIG, hidden_size=384, intermediate_size=384, num_attention_heads=6
    )  # matrices half as wide as those that are timed from memory
    half = replace(small, num_key_value_heads=3)
    attention = 384 * 64 * (2 * 6 + 2 * 3) * 32 / 8
    values = 24 * 2 * 2 * 3 * 64  # of two keys a layer, and their values
    read = 24 * (attention + 4 * 3 * 384 * 384 * 4.25 / 8) + 4 * values
    costs = make_costs()
    warm = decode_time(costs, half, FLOATS, 1)
    for cache, share in ((4 * read, 0.25), (read, 1), (read / 9, 1), (0, 0)):
        cold = replace(costs, cold=1e-3, cold_expert=1e-4, cache_bytes=cache)
        found = decode_time(cold, half, FLOATS, 1)
        sizes = (384 * (6 + 2 * 3) * 64, 6 * 64 * 384, 384 * 32)
        linear = sum(1 - size / 768**2 for size in sizes) * 24e-3
        assert found.linear - warm.linear == pytest.approx(share * linear)
        experts = 24 * 4 * 1e-4 * 0.75
        assert found.experts - warm.experts == pytest.approx(share * experts)
        more = found.attention - warm.attention
        assert more == pytest.approx(share * 1e-3 * values / 192**2)


def test_large_matrices_were_timed_from_memory() -> None:
    costs = replace(make_costs(), cold=1.0, cold_expert=1.0, cache_bytes=1.0)
    router = 24 * (1 - 2880 * 32 / 768**2)  # the only small one of the 20b
    found = decode_time(costs, CONFIG, FLOATS, 1)
    warm = decode_time(make_costs(), CONFIG, FLOATS, 1)
    assert found.products - warm.products == pytest.approx(router)


@pytest.mark.parametrize(
    ("bits", "times"), [(32, 1), (16, 1), (9, 2), (8.5, 2), (6.5, 2), (4.5, 3)]
)
def test_the_width_of_weights_chooses_the_table(bits: float, times: int) -> None:
    width = replace(FLOATS, head=bits)
    costs = make_costs()
    more = decode_time(costs, CONFIG, width, 1).linear
    more -= decode_time(costs, CONFIG, FLOATS, 1).linear
    assert more == pytest.approx((times - 1) * 2880 * 201088 * NANO, abs=1e-9)


@pytest.mark.parametrize(("recipe", "least"), [("lossless", 32), ("q8", 9), ("q4", 5)])
def test_the_width_is_read_from_the_sizes_of_the_parts(
    recipe: str, least: float
) -> None:
    bits = workload(recipe=recipe).bits
    assert bits.head == pytest.approx(least)
    assert least <= bits.attention < 1.01 * least
    assert bits.experts == pytest.approx(4.25)


def test_experts_are_dequantized_for_many_rows_if_the_blas_is_fast() -> None:
    fast = make_costs(dequantized=line(NANO))
    few, many = (
        [prefill_time(x, CONFIG, FLOATS, n, 512).experts for x in (make_costs(), fast)]
        for n in (63, 64)  # 7 and 8 rows for each of 32 experts
    )
    assert few[0] == few[1]
    assert many[1] < 0.3 * many[0]
    small = replace(CONFIG, hidden_size=64, intermediate_size=64)
    few, many = (
        [prefill_time(x, small, FLOATS, n, 512).experts for x in (make_costs(), fast)]
        for n in (122, 123)  # 6 million products
    )
    assert few[0] == few[1]
    assert many[1] < many[0]


@pytest.mark.parametrize("prompt", [1, 100, 5000])
def test_bounds_of_a_probe_are_close(prompt: int) -> None:
    found = predicted(workload(), prompt=prompt)
    assert (found.basis, found.guessed_hits) == ("probe", False)
    for figure in (found.tokens_per_second, found.first_token_seconds):
        assert figure.low < figure.expected < figure.high <= 1.6 * figure.low
    step = decode_time(make_costs(), CONFIG, FLOATS, prompt)
    assert found.tokens_per_second.expected == pytest.approx(1 / step.total)
    assert sum(found.terms.values()) == pytest.approx(1e3 * step.total)


def test_a_guess_is_called_one() -> None:
    machine = replace(PROBED, costs=None)
    assert predict(workload(), machine, HitCurve(), prompt_tokens=1).basis == "guess"


def test_streaming_adds_waits_and_reads() -> None:
    work = workload(memory=20e9)
    assert work.slots
    resident = predicted(replace(work, slots=()))
    found = predicted(work)
    assert found.guessed_hits
    assert found.terms["memory"] == pytest.approx(resident.terms["memory"])
    assert found.terms["sync"] == pytest.approx(len(work.slots) * 0.6)
    assert found.terms["disk"] > 0
    first, without = found.first_token_seconds, resident.first_token_seconds
    assert first.expected > without.expected


def test_recorded_hits_keep_the_bounds_close() -> None:
    work = workload(memory=20e9)
    share = work.slots[0] / work.experts
    found = predicted(work, HitCurve.recorded({share: 0.7}, "a trace"))
    assert not found.guessed_hits
    for figure in (found.tokens_per_second, found.first_token_seconds):
        assert figure.high <= 1.6 * figure.low


@given(
    size=st.floats(1, 1e9),
    rows=st.floats(1, 1e5),
    noise=st.lists(st.floats(0.8, 1.25), min_size=12, max_size=12),
)
def test_seconds_are_never_negative_and_exact_at_the_points(
    size: float, rows: float, noise: list[float]
) -> None:
    factors = iter(noise)
    points = {
        n: [(x, n * x * next(factors) * NANO) for x in (1, 8, 64)]
        for n in (100, 10**4, 10**6, 10**8)
    }
    table = CostTable(points)
    assert table.seconds(size, rows) >= 0
    for n, found in points.items():
        for x, seconds in found:
            assert table.seconds(n, x) == pytest.approx(seconds)


def test_a_line_goes_on_beyond_its_points() -> None:
    assert interpolate([(1, 3), (2, 5)], 4) == 9
    assert interpolate([(2, 5)], 4) == 10
    table = CostTable({10: [(1, 1.0)], 30: [(1, 2.0)]})
    assert table.seconds(20, 1) == 1.5
    assert table.seconds(60, 2) == 8.0
    assert table.seconds(1, 1) == 1.0


def probe_here(**more: object) -> Probe:
    device = str(mx.device_info().get("device_name", ""))
    return replace(Probe(device, 5e9, 100e9, 1e-3, 40e9), **more)


def test_costs_are_kept_and_used(tmp_path: Path) -> None:
    saved = save_probe(
        probe_here(costs=make_costs(dequantized=line(NANO))), tmp_path / "probe.json"
    )
    machine = describe_this_machine(saved)
    assert machine.costs is not None
    again = Costs.from_json(json.loads(json.dumps(asdict(machine.costs))))
    assert again == machine.costs
    expected = decode_time(make_costs(), CONFIG, FLOATS, 100)
    assert decode_time(machine.costs, CONFIG, FLOATS, 100) == expected
    assert machine.costs.dequantized is not None


def test_costs_of_an_older_version_still_count() -> None:
    raw = json.loads(json.dumps(asdict(make_costs())))
    for name in ("cold", "cold_expert", "cache_bytes"):
        del raw[name]
    found, expected = Costs.from_json(raw), make_costs()
    for rows in (1, 100):
        after, before = (
            prefill_time(x, CONFIG, FLOATS, rows, 64) for x in (found, expected)
        )
        assert after == before


def test_a_doubtful_probe_says_so(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    save_probe(probe_here(costs=make_costs(), doubts=("it was hot",)), path)
    assert load_probe(path).doubts == ("it was hot",)  # pyright: ignore
    assert describe_this_machine(path).source.endswith("probe`, although it was hot")


def test_a_probe_of_an_older_version_is_no_basis(tmp_path: Path) -> None:
    machine = describe_this_machine(save_probe(probe_here(), tmp_path / "probe.json"))
    assert machine.costs is None
    assert machine.source.endswith("of an older version: run it again")


def test_a_probe_with_another_blas_does_not_count(tmp_path: Path) -> None:
    from mlx_gptoss.model.blas import preload_blas  # noqa: PLC0415

    other = not preload_blas().optimized
    found = probe_here(costs=make_costs(), blas=other)
    machine = describe_this_machine(save_probe(found, tmp_path / "probe.json"))
    assert (machine.measured, machine.costs) == (False, None)
    assert "another BLAS" in machine.source


@pytest.mark.parametrize("costs", [{"dense": []}, [], {"dense": {"points": {}}}, 3])
def test_damaged_costs_are_named(tmp_path: Path, costs: object) -> None:
    path = save_probe(probe_here(), tmp_path / "probe.json")
    raw = json.loads(path.read_text()) | {"costs": costs or [1]}
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="delete it, then run `mlx-gptoss probe`"):
        describe_this_machine(path)
