"""Sizes against the published checkpoints; budgets read from a made-up system."""

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import (
    Budget,
    PlannedModel,
    device_budget,
    estimate,
    format_bytes,
    format_machine_memory,
    kv_bytes,
    parse_bytes,
    recipe_bytes,
    require_fit,
)

SIZES = {"20b": (24, 32), "120b": (36, 128)}  # layers, experts
KIBIBYTE = 1024


def gpt_oss(size: str) -> ModelConfig:
    layers, experts = SIZES[size]
    return ModelConfig.from_dict(
        {
            "model_type": "gpt_oss",
            "num_hidden_layers": layers,
            "num_local_experts": experts,
            "num_experts_per_tok": 4,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "head_dim": 64,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 201088,
            "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
            "max_position_embeddings": 131072,
            "rope_theta": 150000,
            "rms_norm_eps": 1e-5,
            "swiglu_limit": 7.0,
            "eos_token_id": 200002,
        }
    )


def mac(recommended: float, total: float) -> Budget:
    return Budget(int(recommended), int(total), "the GPU's working set", metal=True)


@pytest.mark.parametrize(
    ("size", "published"), [("20b", 13_761_264_768), ("120b", 65_248_815_744)]
)
def test_lossless_is_the_published_total_to_the_byte(size: str, published: int) -> None:
    assert recipe_bytes(gpt_oss(size), "lossless") == published


@pytest.mark.parametrize(
    ("size", "gigabytes"),
    [
        ("20b", {"q8": 12.08, "q6": 11.63, "q4": 11.18}),
        ("120b", {"q8": 63.27, "q6": 62.74, "q4": 62.21}),
    ],
)
def test_recipes_have_the_known_sizes(size: str, gigabytes: dict[str, float]) -> None:
    config = gpt_oss(size)
    found = {name: recipe_bytes(config, name) / 10**9 for name in gigabytes}
    assert found == pytest.approx(gigabytes, abs=0.011)  # published with 2 decimals


def test_caches_grow_by_the_full_layers_only() -> None:
    config = gpt_oss("20b")
    first = kv_bytes(config, 8192, float_bytes=2)
    grown = kv_bytes(config, 8192 + 1, float_bytes=2)
    assert grown - first == 2048 * 24 * KIBIBYTE


def test_sliding_layers_keep_three_mebibytes_of_the_20b() -> None:
    config = gpt_oss("20b")
    full = 32768 * 24 * KIBIBYTE
    assert kv_bytes(config, 32768, float_bytes=2) - full == 3 * 2**20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16GB", 16 * 10**9),
        ("12.5 gb", 12_500_000_000),
        ("8GiB", 8 * 2**30),
        ("900MB", 900 * 10**6),
        ("16G", 16 * 10**9),
        ("4096", 4096),
        (4096, 4096),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "16 XB", "-4GB", "0", "1e9", 0, -1])
def test_a_size_that_is_none_is_named(text: str | int) -> None:
    with pytest.raises(MemoryBudgetError, match=r"write `16GB`|leaves no room"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (12_084_000_000, "12.1 GB"),
        (847_400_000, "847 MB"),
        (2_345_678, "2.3 MB"),
        (3_000, "3 kB"),
        (512, "512 bytes"),
    ],
)
def test_sizes_are_written_in_powers_of_ten(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(64 * 2**30, "64 GB"), (8 * 2**30, "8 GB"), (16_600_000_000, "15.5 GB")],
)
def test_the_memory_of_a_machine_is_written_as_on_its_label(
    count: int, text: str
) -> None:
    assert format_machine_memory(count) == text


def fake_system(root: Path, *, free_kib: int, cgroup: str | None = None) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(
        f"MemTotal: 32000000 kB\nMemFree: 100 kB\nMemAvailable: {free_kib} kB\n"
    )
    if cgroup is not None:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.max").write_text(cgroup + "\n")
    return root


no_metal = pytest.mark.skipif(mx.metal.is_available(), reason="asks Metal instead")


@no_metal
def test_without_metal_the_budget_is_what_is_free(tmp_path: Path) -> None:
    root = fake_system(tmp_path, free_kib=20_000_000, cgroup="max")
    budget = device_budget(root=root)
    assert (budget.bytes, budget.total) == (20_480_000_000, 32_768_000_000)


@no_metal
def test_a_container_limit_is_obeyed(tmp_path: Path) -> None:
    root = fake_system(tmp_path, free_kib=20_000_000, cgroup=str(4 * 10**9))
    assert device_budget(root=root).bytes == 4 * 10**9


@no_metal
def test_memory_asked_for_is_the_budget_up_to_all_there_is(tmp_path: Path) -> None:
    root = fake_system(tmp_path, free_kib=20_000_000)
    asked = [device_budget(size, root=root).bytes for size in ("8GB", "900GB")]
    assert asked == [8 * 10**9, 32_768_000_000]


def test_this_machine_has_a_budget() -> None:
    budget = device_budget()
    assert 0 < budget.bytes <= budget.total


def refusal(
    size: str, budget: Budget, recipe: str = "lossless", model: str | None = None
) -> str:
    config = gpt_oss(size)
    parts = {"all": recipe_bytes(config, recipe)}
    plan = estimate(PlannedModel("a model", config, parts), budget)
    with pytest.raises(MemoryBudgetError) as raised:
        require_fit(plan, config, model or f"openai/gpt-oss-{size}")
    return str(raised.value)


def test_a_model_that_fits_is_let_through() -> None:
    config = gpt_oss("20b")
    parts = {"all": recipe_bytes(config, "lossless")}
    plan = estimate(PlannedModel("a model", config, parts), mac(24e9, 32e9))
    require_fit(plan, config, "openai/gpt-oss-20b")
    assert plan.mode == "resident"


def test_the_refusal_names_the_recipe_that_fits_and_its_command() -> None:
    assert refusal("20b", mac(12.7e9, 16 * 2**30)) == (
        "`openai/gpt-oss-20b` needs 14.1 GB (13.8 GB of weights, 204 MB for 8,192 "
        "tokens, 159 MB to work in), but there are 12.7 GB (the GPU's working set): "
        "`mlx-gptoss convert openai/gpt-oss-20b gpt-oss-20b-q8 --recipe q8` makes "
        "one that fits (q8 12.1 GB, q4 11.2 GB)"
    )


def test_the_command_can_be_pasted_whatever_the_folder_is_called() -> None:
    message = refusal("20b", mac(12.7e9, 16 * 2**30), model="/my models/20b")
    assert "`mlx-gptoss convert '/my models/20b' 20b-q8 --recipe q8`" in message


def test_a_16_gb_mac_is_told_how_to_raise_the_limit() -> None:
    message = refusal("20b", mac(10.9e9, 16 * 2**30))
    assert "gpt-oss-20b-q8 --recipe q8` fits" in message
    assert "`sudo sysctl iogpu.wired_limit_mb=" in message


def test_the_refusal_of_a_q8_does_not_offer_q8_again() -> None:
    message = refusal("20b", mac(11.6e9, 16 * 2**30), recipe="q8")
    assert "--recipe q4` makes one that fits (q4 11.2 GB)" in message


def test_what_would_not_fit_in_float32_is_not_offered() -> None:
    """Lossless is 13.8 GB on disk, but its floats take twice their room here."""
    config = gpt_oss("20b")
    parts = {"all": recipe_bytes(config, "lossless", float_bytes=4)}
    model = PlannedModel("a model", config, parts, float_bytes=4)
    plan = estimate(model, mac(15.5e9, 64e9))
    with pytest.raises(MemoryBudgetError) as raised:
        require_fit(plan, config, "openai/gpt-oss-20b")
    assert "--recipe q8` makes one that fits (q8 12.2 GB" in str(raised.value)


def test_nothing_fits_is_said_with_what_it_would_take() -> None:
    message = refusal("120b", mac(24e9, 32 * 2**30))
    assert "no recipe fits (q8 63.3 GB, q4 62.2 GB); it takes 62.7 GB" in message


def test_the_context_counts_and_stops_at_the_longest_the_model_knows() -> None:
    model = PlannedModel("a model", gpt_oss("20b"), {"all": 1})
    plans = [
        estimate(model, mac(24e9, 32e9), context=context)
        for context in (None, 131_072, 10**9)
    ]
    assert [plan.context for plan in plans] == [8192, 131_072, 131_072]
    assert plans[0].total_bytes < plans[1].total_bytes == plans[2].total_bytes
