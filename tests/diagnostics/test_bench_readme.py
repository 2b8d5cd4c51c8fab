"""The README of the benchmarks is generated from the stored results."""

import json
import re

import pytest

from mlx_gptoss.diagnostics.bench.tables import (
    MARKED,
    README,
    RESULTS,
    TABLES,
    read_run,
    render,
)

NAMES = sorted(path.stem for path in RESULTS.glob("*.json"))


def test_the_readme_is_what_the_generator_writes() -> None:
    text = README.read_text(encoding="utf-8")

    assert render(text) == text, "run `python -m mlx_gptoss.diagnostics.bench.tables`"


def test_every_table_is_in_the_readme_once() -> None:
    names = [found["name"] for found in MARKED.finditer(README.read_text("utf-8"))]

    assert sorted(names) == sorted(TABLES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_result_says_how_it_came_about(name: str) -> None:
    run = read_run(name)

    assert {"command", "commit", "date", "machine", "result"} <= set(run)
    assert re.fullmatch(r"[0-9a-f]{7}", run["commit"])
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", run["date"])
    assert not re.search(r"/(home|Users|root|tmp|work)/", json.dumps(run))
