"""Placement of the published models' experts on Macs on sale."""

from dataclasses import replace

import pytest

from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.memory import (
    Budget,
    HitCurve,
    Machine,
    Plan,
    PlannedModel,
    describe_device,
    format_bytes,
    measure_workload,
    plan_storage,
    predict,
    recipe_bytes,
    recipe_parts,
    require_fit,
)
from mlx_gptoss.memory.hit_rates import USUAL_HITS
from mlx_gptoss.memory.machines import CHIPS, Range, estimate_working_set, find_chip
from mlx_gptoss.memory.published_models import PublishedModel, find_published_model

GB = 10**9
FAST_SYNC = Machine("fast", 500 * GB, 7 * GB, sync_seconds=0.0)
SLOW_SYNC = Machine("slow", 500 * GB, 7 * GB, sync_seconds=2e-3)


def shape(name: str) -> PublishedModel:
    found = find_published_model(name)
    assert found is not None
    return found


def planned(
    name: str, device: str, *, experts: str = "auto", context: int | None = None
) -> Plan:
    known = shape(name)
    machine, budget = describe_device(device)
    options = LoadOptions(experts=experts, context=context)
    return plan_storage(sized(known), options, budget, machine=machine)


def sized(known: PublishedModel) -> PlannedModel:
    parts = recipe_parts(known.config, known.recipe)
    return PlannedModel(known.name, known.config, parts)


def streamed(
    bytes_allowed: float, *, machine: Machine = FAST_SYNC, experts: str = "auto"
) -> Plan:
    known = shape("gpt-oss-120b-q8")
    budget = Budget(int(bytes_allowed), 10**12, "a test", metal=True)
    options = LoadOptions(experts=experts)
    return plan_storage(sized(known), options, budget, machine=machine)


@pytest.mark.parametrize("recipe", ["lossless", "q8", "q6", "q4"])
@pytest.mark.parametrize("name", ["gpt-oss-20b", "gpt-oss-120b"])
def test_parts_sum_up_to_the_recipe(name: str, recipe: str) -> None:
    config = shape(name).config
    parts = recipe_parts(config, recipe)
    assert sum(parts.values()) == recipe_bytes(config, recipe)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("openai/gpt-oss-120b", "lossless"),
        ("./models/gpt-oss-20b-q4/", "q4"),
        ("mlx-community/gpt-oss-20b-MXFP4-Q8", "q8"),
    ],
)
def test_published_models_are_known_by_name(name: str, recipe: str) -> None:
    assert shape(name).recipe == recipe


@pytest.mark.parametrize("name", ["demo", "gpt-oss-20b-tuned", "someone/llama-120b"])
def test_other_names_are_not(name: str) -> None:
    assert find_published_model(name) is None


@pytest.mark.parametrize(
    ("name", "device", "mode"),
    [
        ("gpt-oss-20b", "M4 Pro 24GB", "resident"),
        ("gpt-oss-20b-q4", "M4 16GB", "resident"),
        ("gpt-oss-20b", "M4 16GB", "streamed"),
        ("gpt-oss-120b-q8", "M4 Max 36GB", "streamed"),
        ("gpt-oss-120b-q8", "M4 Max 64GB", "hybrid"),
        ("gpt-oss-120b-q8", "M5 Max 128GB", "resident"),
    ],
)
def test_the_mode_follows_from_the_memory(name: str, device: str, mode: str) -> None:
    plan = planned(name, device)
    require_fit(plan, shape(name).config, name)
    assert plan.mode == mode
    assert plan.fits


@pytest.mark.parametrize("chip", CHIPS, ids=lambda c: f"{c.name} {c.bandwidth}")
def test_every_mac_gets_a_plan_or_a_reason(chip: object) -> None:
    for gib in chip.memory:  # pyright: ignore
        plan = planned("gpt-oss-120b-q8", f"{chip.name} {gib}GB")  # pyright: ignore
        if plan.mode == "resident":
            assert plan.fits
        elif plan.slots:
            assert plan.fits
            assert plan.least_slots >= 4
            assert plan.budget.bytes - plan.total_bytes < 2 * 36 * plan.record_bytes


def test_all_the_memory_there_is_goes_to_slots() -> None:
    plan = streamed(20e9, experts="streamed")
    assert plan.budget.bytes - plan.total_bytes < plan.record_bytes
    assert set(plan.slots) == set(range(36))
    assert max(plan.slots.values()) - min(plan.slots.values()) <= 1


def test_slow_waits_are_avoided_by_resident_layers() -> None:
    fast, slow = (streamed(45e9, machine=each) for each in (FAST_SYNC, SLOW_SYNC))
    assert slow.mode == "hybrid"
    assert 10 < 36 - len(slow.slots) < 30
    assert len(fast.slots) > len(slow.slots)
    assert len(streamed(20e9, machine=SLOW_SYNC).slots) >= 34


@pytest.mark.parametrize(
    ("experts", "mode"), [("streamed", "streamed"), ("hybrid", "hybrid")]
)
def test_what_is_asked_for_is_planned(experts: str, mode: str) -> None:
    for machine in (FAST_SYNC, SLOW_SYNC):
        assert streamed(45e9, machine=machine, experts=experts).mode == mode


def test_a_budget_below_the_slots_of_one_token_is_refused_with_the_sum() -> None:
    known = shape("gpt-oss-120b")
    budget = Budget(7 * GB, 8 * GB, "a test", metal=True)
    plan = plan_storage(sized(known), LoadOptions(memory="6GB"), budget)
    with pytest.raises(MemoryBudgetError) as raised:
        require_fit(plan, known.config, "openai/gpt-oss-120b")
    message = str(raised.value)
    assert message.startswith("`openai/gpt-oss-120b` needs at least 7.3 GB: 4.3 GB of")
    assert "(4 x 36 x 13 MB = 1.9 GB)" in message
    assert "there are 6.0 GB (the memory asked for), room for 1 experts" in message
    assert "gpt-oss-120b-q8 --recipe q8` makes one that runs" in message


def test_the_refusal_names_a_bound_that_holds() -> None:
    """With what it asks for the same model is planned."""
    known = shape("gpt-oss-120b-q4")
    for size in range(3_000, 6_000, 50):
        budget = Budget(size * 10**6, 8 * GB, "a test", metal=True)
        plan = plan_storage(sized(known), LoadOptions(context=1024), budget)
        least = plan.total_bytes + (0 if plan.slots else 36 * 4 * plan.record_bytes)
        assert bool(plan.slots) == (least <= budget.bytes)


def test_the_context_takes_slots() -> None:
    short, long = (
        planned("gpt-oss-120b-q8", "M4 Max 36GB", context=n) for n in (1024, 131072)
    )
    assert short.least_slots > long.least_slots


def test_devices_are_read_as_people_write_them() -> None:
    machine, budget = describe_device("Apple m4 max 36 GB")
    assert (machine.name, machine.bandwidth, budget.total) == (
        "M4 Max",
        410 * GB,
        36 * 2**30,
    )
    assert describe_device("M4 Max 64GB")[0].bandwidth == 546 * GB
    assert find_chip("Apple M2") is not None
    assert find_chip("Intel Xeon") is None


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("M4 Max", "needs its memory: the M4 Max comes with 36GB, 48GB, 64GB, 128GB"),
        ("M4 Max 37GB", "comes with 36GB"),
        ("M99 8GB", "is not known"),
        ("toaster", "write a chip and its memory"),
    ],
)
def test_unknown_devices_are_named(device: str, reason: str) -> None:
    with pytest.raises(MemoryBudgetError, match=reason):
        describe_device(device)


def test_working_sets_are_what_owners_report() -> None:
    gib = 2**30
    assert estimate_working_set(8 * gib) / gib == pytest.approx(5.3, abs=0.1)
    assert estimate_working_set(36 * gib) == 27 * gib
    assert estimate_working_set(64 * gib) == 48 * gib


def test_the_formula_is_the_one_that_is_shown() -> None:
    plan = streamed(20e9, machine=SLOW_SYNC, experts="streamed")
    config = shape("gpt-oss-120b").config
    found = predict(
        measure_workload(plan, config), SLOW_SYNC, HitCurve(), prompt_tokens=100
    )
    share = sum(plan.slots.values()) / 36 / 128
    missed = (1 - HitCurve().expected(share)) * 36 * 4 * plan.record_bytes
    assert found.terms["sync"] == pytest.approx(36 * 2.0)
    assert found.terms["disk"] == pytest.approx(1e3 * missed / (0.9 * 7 * GB), rel=0.02)
    assert found.terms["memory"] == pytest.approx(
        1e3 * 3.56 * GB / (0.65 * 500 * GB), rel=0.01
    )
    speed = 1e3 / sum(found.terms.values())
    assert found.tokens_per_second.expected == pytest.approx(speed)


def test_a_measured_rate_of_experts_stands_for_their_bytes() -> None:
    plan = streamed(20e9, machine=SLOW_SYNC, experts="streamed")
    work = measure_workload(plan, shape("gpt-oss-120b").config)
    slow = replace(SLOW_SYNC, expert_rate=10 * GB)
    found = predict(work, slow, HitCurve(), prompt_tokens=100)
    rest = work.active_bytes - work.expert_bytes
    assert work.expert_bytes == pytest.approx(1.904 * GB, rel=0.01)
    assert found.terms["memory"] == pytest.approx(
        1e3 * (rest / (0.65 * 500 * GB) + work.expert_bytes / (10 * GB))
    )
    speed = found.tokens_per_second
    assert speed.low < speed.expected < speed.high


@pytest.mark.parametrize("device", ["M4 Max 64GB", "M4 Max 36GB", "M1 8GB"])
def test_bounds_enclose_what_is_expected(device: str) -> None:
    name = "gpt-oss-120b-q8"
    plan = planned(name, device)
    machine, _ = describe_device(device)
    found = predict(
        measure_workload(plan, shape(name).config),
        machine,
        HitCurve(),
        prompt_tokens=3000,
    )
    for figure in (found.tokens_per_second, found.first_token_seconds, found.hit_rate):
        assert figure.low < figure.expected < figure.high


def test_the_published_run_lies_within_the_bounds() -> None:
    """mlx-lm #1588: 120b on an M5 Pro 48 GB, 30 % resident: 7.7 tokens a second."""
    known = shape("gpt-oss-120b-q8")
    machine, _ = describe_device("M5 Pro 48GB")
    budget = Budget(int(22.5e9), 48 * 2**30, "30 % of the experts", metal=True)
    options = LoadOptions(experts="streamed")
    plan = plan_storage(sized(known), options, budget, machine=machine)
    assert plan.least_slots / 128 == pytest.approx(0.3, abs=0.02)
    found = predict(
        measure_workload(plan, known.config), machine, HitCurve(), prompt_tokens=1
    )
    assert found.tokens_per_second.low < 7.7 < found.tokens_per_second.high


def test_curves_rise_and_meet_their_points() -> None:
    curve = HitCurve()
    shares = [n / 200 for n in range(201)]
    rates = [curve.expected(share) for share in shares]
    assert rates == sorted(rates)
    assert all(curve.at(s) == Range(*bounds) for s, bounds in USUAL_HITS.items())


def test_a_recorded_curve_replaces_the_usual_one() -> None:
    curve = HitCurve.recorded({0.5: 0.7}, "a trace")
    assert curve.at(0.5) == Range(0.7, 0.7, 0.7)
    assert curve.expected(0.25) == pytest.approx(0.35)


def test_sizes_say_gigabytes() -> None:
    assert format_bytes(planned("gpt-oss-20b", "M4 Pro 24GB").weight_bytes) == "13.8 GB"
