"""`bench experts` on a shape small enough for every machine."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.experts import (
    Aim,
    bench_experts,
    compare_with_aims,
    run_in_process,
)
from mlx_gptoss.diagnostics.bench.random_checkpoint import CheckpointShape
from mlx_gptoss.errors import GptOssError

TINY = CheckpointShape(64, 16, 2, 1, 256)
RUNS = {
    "warm": {"read": 1.0, "load": 1.1, "stock": 3.0},
    "cold": {"read": 1.0, "load": 1.05},
    "decode": {"ratio": 0.95, "host_microseconds": 12.0},
    "fill": {"ratio": 0.6},
    "steady": {"active_spread": 0, "rss_growth": 3_000_000},
}


def test_every_figure_is_measured(tmp_path: Path) -> None:
    said: list[str] = []
    found = bench_experts(shape=TINY, rounds=1, stock=False, progress=said.append)
    assert {aim.name for aim in found.aims} == {
        aim.name for aim in compare_with_aims(RUNS)[1:]
    }
    assert found.runs["steady"]["misses"] > 500
    assert found.runs["prediction"]["measured"] > 0
    assert json.loads(json.dumps(found.as_json()))["runs"]["fill"]["slots"] > 0
    assert said[0] == "writing a random checkpoint"


def test_aims_say_which_are_missed() -> None:
    assert {aim.name: aim.reached for aim in compare_with_aims(RUNS)} == {
        "warm load against mlx-lm": True,
        "cold load against plain preadv": True,
        "streamed against resident decode": True,
        "host cost a layer, all hit": True,
        "slot fill against plain preadv": False,
        "MLX bytes moved when steady": True,
        "RSS growth over 500 tokens": False,
    }
    assert Aim("x", 1, 1, "x").reached and Aim("x", 1, 1, "x", at_least=False).reached


def test_a_run_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(GptOssError, match=r"measuring `load` failed: .*does not exist"):
        run_in_process("load", tmp_path / "nowhere")


def test_a_model_must_be_there() -> None:
    result = CliRunner().invoke(cli, ["bench", "experts", "-m", "./nowhere"])
    assert result.exit_code == 2
