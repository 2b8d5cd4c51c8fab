"""`mlx-gptoss plan`, `probe` and `trace` from the command line, on the demo."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint.expert_records import expert_records
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.plan import bounds_text
from mlx_gptoss.cli.services import Services
from mlx_gptoss.diagnostics.plot import memory_by_part, plot_forecast, speed_by_slots
from mlx_gptoss.engine.forecast import forecast, model_from_folder, model_from_shape
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.memory import Range, describe_device
from mlx_gptoss.memory.published_models import find_published_model
from mlx_gptoss.memory.saved_probe import Probe, load_probe, probe_file
from tests.support.machine_costs import make_costs
from tests.support.streaming import write

PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test measures away from the user's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)


def run(*arguments: Any, obj: Services | None = None) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in arguments], obj=obj)


def test_the_120b_is_planned_for_a_mac_one_does_not_have() -> None:
    result = run("plan", "openai/gpt-oss-120b", "--device", "M4 Max 64GB")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "openai/gpt-oss-120b, lossless on M4 Max"
    budget = next(line for line in lines if line.startswith("budget "))
    assert budget.endswith("51.5 GB  (what macOS gives the GPU of 64 GB)")
    assert any(line.startswith("Experts are hybrid: ") for line in lines)
    assert any(line.startswith("Guess: ") for line in lines)
    changes = result.stdout[result.stdout.index("What would change it") :]
    for change in ("--context 131072", "--recipe q4", "iogpu.wired_limit_mb="):
        assert change in changes


def test_json_has_every_figure_of_the_plan() -> None:
    result = run("plan", "openai/gpt-oss-20b", "--device", "M4 16GB", "--json")
    found = json.loads(result.stdout)
    plan = found["plan"]
    parts = sum(plan["bytes_by_part"].values())
    rest = plan["kv_bytes"] + plan["scratch_bytes"] + plan["headroom_bytes"]
    assert plan["total_bytes"] == parts + rest <= plan["budget"]["bytes"]
    assert set(found["prediction"]["milliseconds"]) == {
        "memory",
        "rest",
        "sync",
        "disk",
    }


def test_a_model_that_cannot_run_is_refused() -> None:
    result = run(
        "plan", "openai/gpt-oss-120b", "--device", "M1 16GB", "--memory", "5GB"
    )
    assert result.exit_code == 1
    assert "room for 0 experts a layer" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--device", "M4 Max"], "needs its memory"),
        (["demo", "--device", "toaster 8GB"], "is not known"),
        (["./nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    result = run("plan", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_folder_is_planned_from_its_headers(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "model")
    result = run("plan", checkpoint.folder, "--device", "M2 8GB", "--json")
    plan = json.loads(result.stdout)["plan"]
    assert plan["mode"] == "resident"
    assert plan["whole_bytes"] > 0


def test_dense_experts_are_planned_resident_only(tmp_path: Path) -> None:
    write(tmp_path, "dense")
    subject = model_from_folder(tmp_path, "tuned", 2)
    machine, budget = describe_device("M4 Max 36GB")
    assert forecast(subject, LoadOptions(), budget, machine).plan.mode == "resident"
    with pytest.raises(ConfigError, match="are not quantized, and only quantized"):
        forecast(subject, LoadOptions(experts="streamed"), budget, machine)
    result = run("plan", tmp_path, "--device", "M4 Max 36GB")
    assert "Experts are resident: all of the model is in memory" in result.stdout
    assert "are not quantized, and only quantized" in result.stdout


def test_affine_experts_are_planned_as_large_as_they_are(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "mlx-split-affine")
    subject = model_from_folder(tmp_path, "affine", 2)
    machine, budget = describe_device("M4 Max 36GB")
    plan = forecast(subject, LoadOptions(experts="streamed"), budget, machine).plan
    assert plan.mode == "streamed"
    assert plan.record_bytes == expert_records(checkpoint)[0].record_bytes


def test_alternatives_change_one_thing() -> None:
    shape = find_published_model("gpt-oss-120b")
    assert shape is not None
    machine, budget = describe_device("M4 Max 36GB")
    found = forecast(model_from_shape(shape, "120b"), LoadOptions(), budget, machine)
    by_change = {other.change.split()[0]: other for other in found.alternatives}
    assert set(by_change) == {"--context", "convert", "sudo"}
    raised = by_change["sudo"]
    assert raised.plan.least_slots > found.plan.least_slots


def test_recipes_that_shrink_a_folder_are_offered(tmp_path: Path) -> None:
    write(tmp_path / "tuned", "dense")
    machine, budget = describe_device("M4 Max 36GB")
    found = forecast(
        model_from_folder(tmp_path / "tuned", "x", 2), LoadOptions(), budget, machine
    )
    changes = [other.change for other in found.alternatives]
    assert any(change.startswith("convert --recipe lossless") for change in changes)
    write(tmp_path / "packed", "mlx-split-mxfp4")
    found = forecast(
        model_from_folder(tmp_path / "packed", "x", 2), LoadOptions(), budget, machine
    )
    changes = [other.change for other in found.alternatives]
    assert not any(change.startswith("convert --recipe lossless") for change in changes)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "plan.png"
    result = run(
        "plan", "openai/gpt-oss-120b", "--device", "M5 Pro 48GB", "--plot", path
    )
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(PNG)
    assert path.stat().st_size > 10_000


def test_a_resident_plan_can_be_drawn_too(tmp_path: Path) -> None:
    shape = find_published_model("gpt-oss-20b")
    assert shape is not None
    machine, budget = describe_device("M4 Max 64GB")
    found = forecast(model_from_shape(shape, "20b"), LoadOptions(), budget, machine)
    assert sum(memory_by_part(found.plan).values()) == found.plan.total_bytes
    speeds = [x.expected for x in speed_by_slots(found).values()]
    assert speeds == sorted(speeds)
    assert plot_forecast(found, tmp_path / "x.png").exists()


def test_a_run_is_recorded_replayed_and_planned_with(tmp_path: Path) -> None:
    file = tmp_path / "routing.trace"
    result = run("trace", "record", file, "17+4=", "--tokens", "6")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("Using the small demo model") == 1
    result = run("trace", "replay", file, "--json", "--policy", "lru")
    rates = [row["hit_rate"] for row in json.loads(result.stdout)["rates"]]
    assert rates == sorted(rates)
    text = run("trace", "replay", file, "--slots", "8", "--policy", "ideal").stdout
    assert text.splitlines()[0] == "slots  share  policy  hit rate"
    plan = run("plan", "demo", "--device", "M2 8GB", "--trace", file, "--json")
    assert plan.exit_code == 0, plan.output


def probing(*doubts: str, step: float = 1e-3) -> Services:
    """Return services whose probe measures an imaginary machine, at once."""
    device = str(mx.device_info().get("device_name", ""))
    found = Probe(device, 5e9, 1e10, 1e-3, costs=make_costs(step=step), doubts=doubts)
    return Services(probe=lambda folder, **options: found)


def test_a_probe_is_kept_for_plans() -> None:
    before = json.loads(run("plan", "demo", "--json").stdout)
    assert before["prediction"]["basis"] == "guess"
    result = run("probe", "--json", obj=probing())
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert Path(found["file"]).is_file()
    plan = json.loads(run("plan", "demo", "--json").stdout)
    machine, prediction = plan["machine"], plan["prediction"]
    assert (machine["ssd"], machine["measured"]) == (found["ssd"], True)
    assert (prediction["basis"], prediction["guessed"]) == ("probe", [])
    for name in ("tokens_per_second", "first_token_seconds"):
        assert prediction[name]["high"] <= 1.6 * prediction[name]["low"]


def test_a_probe_of_a_busy_machine_is_shown_and_not_kept() -> None:
    busy = probing("other programs used 1.5 of 2 cores")
    result = run("probe", obj=busy)
    assert result.exit_code == 1
    assert result.stdout.startswith("disk    5.00 GB/s, uncached\n")
    assert result.stderr == (
        "Error: nothing was kept, because other programs used 1.5 of 2 cores: probe "
        "again when nothing else runs, or keep it with `--force`\n"
    )
    assert not probe_file().exists()
    result = run("probe", "--json", obj=busy)
    assert (result.exit_code, json.loads(result.stdout)["file"]) == (1, None)
    assert not probe_file().exists()


def test_a_busy_machine_does_not_replace_an_older_probe() -> None:
    run("probe", obj=probing())
    run("probe", obj=probing("it was busy", step=5.0))
    kept = load_probe()
    assert kept is not None and kept.doubts == ()


def test_a_forced_probe_is_marked_as_such() -> None:
    busy = probing("other programs used 1.5 of 2 cores")
    result = run("probe", "--force", obj=busy)
    assert result.exit_code == 0, result.output
    assert "although other programs used 1.5 of 2 cores" in result.stderr
    text = run("plan", "demo").stdout
    assert "`mlx-gptoss probe`, although other programs used 1.5 of 2 cores" in text


def test_a_plan_says_what_it_guesses() -> None:
    text = run("plan", "demo").stdout
    assert "\nGuess: " in text
    assert "  nothing was measured, so that this is only a guess: run `mlx-gpt" in text
    run("probe", obj=probing())
    text = run("plan", "demo").stdout
    assert "\nExpected: " in text
    assert "guess" not in text
    text = run("plan", "demo", "--device", "M4 Max 64GB").stdout
    assert "\nGuess: " in text
    streamed = ("--experts", "streamed", "--memory", "600MB")
    text = run("plan", "demo", *streamed).stdout
    assert "\nExpected: " in text
    assert "  partly a guess: how often experts are found in slots is not " in text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (61.07, 95.42, "61.1 to 95.4"),
        (0.04501, 0.0703, "0.0450 to 0.0703"),
        (640, 1000, "640 to 1,000"),
        (999.6, 1562, "1,000 to 1,562"),
    ],
)
def test_bounds_are_shown_with_three_digits(low: float, high: float, text: str) -> None:
    assert bounds_text(Range(low, 0, high)) == text
