"""Steps of training beside mlx-lm's: the same work, and the form of the report."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.tune import bench_tune
from mlx_gptoss.diagnostics.bench.tune_results import (
    TrainingBench,
    TrainingColumn,
    TrainingWork,
)
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError
from tests.support.checkpoints import write_checkpoint

SMALL = ["--rows", "2", "--tokens", "12", "--steps", "1", "--rounds", "1"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return write_checkpoint(folder, hidden_size=64, num_hidden_layers=2)


def test_both_make_the_same_steps(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")  # starts no C++ compiler
    words = ["bench", "tune", "-m", str(tiny), *SMALL, "--prompt", "5"]
    done = CliRunner().invoke(cli, [*words, "--against", "mlx-lm", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    ours, peers = found["columns"][0], found["columns"][-2:]
    assert [each["name"] for each in peers] == ["mlx-lm", "mlx-lm, uncompiled"]
    for each in found["columns"]:
        assert each["failure"] is None
        assert each["steps"] == 1 and each["step_s"] > 0 and each["peak_memory"] > 0
        assert (each["dtype"], each["blas"]) == (ours["dtype"], ours["blas"])
        # The same tokens are learned; mlx-lm rounds two bounds of YaRN.
        assert each["first_loss"] == pytest.approx(ours["first_loss"], rel=0.01)
    assert found["speed_ratio"] > 0 and found["memory_ratio"] > 0
    assert ours["planned_memory"] > 0


def test_the_table_has_a_row_for_each_engine(tiny: Path) -> None:
    done = CliRunner().invoke(cli, ["bench", "tune", "-m", str(tiny), *SMALL])
    assert done.exit_code == 0, done.stderr
    assert "mlx_gptoss" in done.stdout and "tok/s" in done.stdout
    assert "2 rows of 12 tokens, rank 8 on attention, float32" in done.stdout
    assert "round 1 of 1: mlx_gptoss" in done.stderr


def test_ratios_are_to_the_better_peer() -> None:
    def column(name: str, step: float, memory: int, weights: str) -> TrainingColumn:
        return TrainingColumn(name, step_s=step, peak_memory=memory, weights=weights)

    found = TrainingBench(
        model="m",
        machine="a machine",
        load_average=0.0,
        rounds=1,
        work=TrainingWork(),
        columns=(
            column("mlx_gptoss", 1.0, 900, "decoded"),
            column("mlx_gptoss, packed", 2.0, 300, "packed"),
            column("mlx-lm", 3.0, 400, "packed"),
            column("mlx-lm, uncompiled", 2.5, 500, "packed"),
        ),
        peer="mlx-lm",
    )
    assert (found.speed_ratio, found.memory_ratio) == (2.5, 0.75)


@pytest.mark.parametrize(
    ("work", "measured", "message"),
    [
        ({}, {"against": "unsloth"}, "unsloth"),
        ({}, {"rounds": 0}, "train nothing"),
        ({"tokens": 1}, {}, "train nothing"),
        ({"tokens": 9, "prompt": 10}, {}, "leaves nothing to learn"),
    ],
)
def test_wrong_work_is_named(
    tiny: Path, work: dict, measured: dict, message: str
) -> None:
    with pytest.raises(GptOssError, match=message):
        bench_tune(tiny, LoadOptions(), TrainingWork(**work), **measured)
