"""Saved results of benchmarks: written, read and compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.saved_runs import (
    ComparedFigure,
    SavedRun,
    compare_runs,
)
from mlx_gptoss.diagnostics.bench.tables import RESULTS
from mlx_gptoss.errors import GptOssError

LEVELS = [{"streams": 1, "tokens_per_second": 40.0}, {"streams": 4, "late_s": 2}]
RUN = SavedRun(
    "serve",
    "mlx-gptoss bench serve -m demo",
    {"load_average": 0.1, "rounds": 5, "sides": [{"name": "ours", "levels": LEVELS}]},
    settings={"rounds": 5},
    model="demo",
    machine="a Mac",
    versions={"mlx": "0.32.4"},
)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *words])


def with_result(**changes: object) -> SavedRun:
    return replace(RUN, result={**RUN.result, **changes})


def test_a_file_has_the_run_and_how_it_came_about(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    words = ["--depth", "4", "--tokens", "3", "--rounds", "1", "--save", str(path)]

    done = run("constrain", "-m", "demo", *words, "--json")

    assert done.exit_code == 0, done.stderr
    saved = json.loads(path.read_text())
    assert saved["bench"] == "constrain"
    assert saved["command"] == (
        "mlx-gptoss bench constrain -m demo --depth 4 --tokens 3 --rounds 1"
    )
    assert saved["model"] == "demo"
    assert {"depth": 4, "tokens": 3, "rounds": 1}.items() <= saved["settings"].items()
    assert {"mlx", "mlx-gptoss", "python"} <= set(saved["versions"])
    printed = json.loads(done.stdout)
    assert saved["result"] == printed | {"model": "demo"}


def test_a_file_that_cannot_be_written_is_refused_before_measuring(
    tmp_path: Path,
) -> None:
    done = run("constrain", "-m", "demo", "--save", str(tmp_path / "no" / "x.json"))

    assert done.exit_code == 2
    assert "there is no folder" in done.stderr


def test_figures_are_compared_by_name_whatever_their_order() -> None:
    turned = with_result(sides=[{"name": "ours", "levels": LEVELS[::-1]}])
    faster = with_result(
        sides=[{"name": "ours", "levels": [LEVELS[1], {**LEVELS[0], "late_s": 1}]}]
    )

    assert compare_runs(RUN, turned).figures == (
        ComparedFigure("sides.ours.levels.streams 1.tokens_per_second", 40.0, 40.0),
        ComparedFigure("sides.ours.levels.streams 4.late_s", 2.0, 2.0),
    )
    added = compare_runs(RUN, faster).figures[-1]
    assert added == ComparedFigure("sides.ours.levels.streams 1.late_s", None, 1.0)
    assert added.ratio is None


def test_a_ratio_is_of_the_second_run_to_the_first() -> None:
    assert ComparedFigure("x", 2.0, 3.0).ratio == 1.5
    assert ComparedFigure("x", 0.0, 3.0).ratio is None


def test_a_figure_named_like_a_setting_is_compared() -> None:
    one = SavedRun("b", "", {"rounds": 5, "operations": 300}, {"operations": True})

    figures = compare_runs(one, one).figures

    assert [each.figure for each in figures] == ["rounds", "operations"]


def test_all_that_differs_is_noted() -> None:
    other = replace(
        with_result(load_average=7.0),
        model="20b",
        machine="another Mac",
        versions={"mlx": "0.33"},
        settings={"rounds": 3},
    )

    assert compare_runs(RUN, RUN).notes == ()
    assert compare_runs(RUN, other).notes == (
        "model differs: demo / 20b",
        "machine differs: a Mac / another Mac",
        "version of mlx differs: 0.32.4 / 0.33",
        "setting rounds differs: 5 / 3",
        "B ran beside other work: load average 7.0",
    )


def test_files_of_different_benchmarks_are_refused_by_name(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    RUN.write(a)
    replace(RUN, bench="turns").write(b)

    done = run("compare", str(a), str(b))

    assert done.exit_code == 1
    assert "`bench serve` and `bench turns` measure different things" in done.stderr


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    a = tmp_path / "a.json"
    RUN.write(a)

    table, printed = (
        run("compare", str(a), str(a)),
        run("compare", str(a), str(a), "--json"),
    )

    assert table.stdout.splitlines() == [
        "bench serve                                    A: a.json  B: a.json   B / A",
        "sides.ours.levels.streams 1.tokens_per_second         40         40  1.000x",
        "sides.ours.levels.streams 4.late_s                     2          2  1.000x",
    ]
    assert json.loads(printed.stdout)["figures"][0]["ratio"] == 1.0


def test_results_that_were_kept_before_are_read() -> None:
    found = SavedRun.read(RESULTS / "serve.json")

    assert (found.bench, found.model) == ("serve", "demo")
    assert len(compare_runs(found, found).figures) > 6


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"command": "x", "result": {}}'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(GptOssError, match="holds no result of `bench`"):
        SavedRun.read(path)
