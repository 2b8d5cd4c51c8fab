"""The form of the report of `bench constrain`, not its speed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.constrain import bench_constrain, fastest_tenth
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError
from tests.support.checkpoints import write_checkpoint


def test_free_and_guided_text_are_measured_on_the_same_tokens() -> None:
    folder = Path(resolve("demo"))

    found = bench_constrain(folder, LoadOptions(), depth=4, tokens=3, rounds=1)

    assert found.free > 0 and found.guided > 0
    assert found.cost == pytest.approx(found.paired)
    assert (found.depth, found.tokens, found.rounds) == (4, 3, 1)


def test_the_fastest_tenth_is_compared() -> None:
    assert fastest_tenth([3.0]) == 3.0
    assert fastest_tenth([float(n) for n in range(20, 0, -1)]) == 3.0


def test_the_command_reports_as_json() -> None:
    words = ["bench", "constrain", "-m", "demo", "--depth", "4", "--tokens", "3"]
    result = CliRunner().invoke(cli, [*words, "--rounds", "1", "--json"])

    assert result.exit_code == 0
    assert {"free", "guided", "cost"} <= set(json.loads(result.stdout))


def test_what_measures_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GptOssError, match="measure nothing"):
        bench_constrain(Path(resolve("demo")), LoadOptions(), tokens=1)
    with pytest.raises(GptOssError, match="fewer than the vocabulary"):
        bench_constrain(
            write_checkpoint(tmp_path, seed=1),
            LoadOptions(),
            depth=4,
            tokens=3,
            rounds=1,
        )
