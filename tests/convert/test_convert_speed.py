"""The structure of the output of `bench convert` and `compare`; no speeds."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss_convert.measure.speed import (
    COPY,
    LOSSLESS,
    PEER,
    Q8,
    ConvertBench,
    EngineResult,
)
from tests.support.checkpoints import write_checkpoint


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_bench_convert_measures_four_engines(tmp_path: Path) -> None:
    options = ["--size", "1MB", "--rounds", "1", "--folder", tmp_path]
    result = run("bench", "convert", *options, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["engine"] for row in found["rows"]] == [COPY, LOSSLESS, Q8, PEER]
    assert [row["failure"] for row in found["rows"]] == [""] * 4
    assert all(row["seconds"] > 0 and row["peak"] > 10**7 for row in found["rows"])
    assert not list(tmp_path.iterdir())


def test_ratios_say_how_often_ours_fits_into_the_others() -> None:
    rows = [(COPY, 1.0, 0), (LOSSLESS, 2.0, 5), (Q8, 2.0, 5), (PEER, 6.0, 50)]
    found = ConvertBench(
        100, tuple(EngineResult(e, s, 100, peak) for e, s, peak in rows)
    )
    assert (found.copy_share, found.peer_ratios) == (0.5, (3.0, 10.0))


def test_a_peer_that_fails_has_no_ratio() -> None:
    rows = [
        EngineResult(COPY, 1, 1, 1),
        EngineResult(Q8, 1, 1, 1),
        EngineResult(PEER, 0, 0, 0, "no such module"),
    ]
    assert ConvertBench(1, tuple(rows)).peer_ratios is None


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    source = write_checkpoint(tmp_path / "source")
    made = [tmp_path / "q8", tmp_path / "q4"]
    for folder in made:
        assert run("convert", source, folder, "--recipe", folder.name).exit_code == 0
        assert run("verify", folder, "--against", source).exit_code == 0
    return made


def test_compare_prints_two_reports_side_by_side(folders: list[Path]) -> None:
    result = run("compare", *folders)
    rows = {line.split("  ")[0]: line.split() for line in result.stdout.splitlines()}
    assert (result.exit_code, rows["embed"]) == (0, ["embed", "8/64", "4/64"])
    q8, q4 = map(float, rows["lm_head relative_rms"][-2:])
    assert 0 < q8 < 0.01 < q4 < 0.1
    assert rows["faults"] == ["faults", "0", "0"]


def test_compare_as_json_has_the_same_rows(folders: list[Path]) -> None:
    found = json.loads(run("compare", *folders, "--json").stdout)
    assert found["name"] == ["q8", "q4"]
    assert float(found["norms max"][0]) == 0


def test_a_folder_without_a_report_is_one_line(tmp_path: Path) -> None:
    result = run("compare", tmp_path, tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "run `mlx-gptoss verify --against` first" in result.stderr
