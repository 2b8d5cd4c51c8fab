"""`verify --experts-modes`: every storage against the first, naming differences."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.storage_check import (
    StorageComparison,
    compare_modes,
    max_difference,
)
from mlx_gptoss.errors import ConfigError, MemoryBudgetError
from tests.support.streaming import write

NAMES = [
    "resident",
    "streamed, 9 of 9 slots",
    "streamed, 6 of 9 slots",
    "streamed, 3 of 9 slots",
    "hybrid, every other layer",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("modes")).folder


def test_all_storages_are_one_model(folder: Path) -> None:
    said: list[str] = []
    found = compare_modes(folder, progress=said.append)
    assert [each.name for each in found] == NAMES
    assert all(each.equal for each in found)
    assert found[0].hit_rate == 1.0 > found[3].hit_rate
    assert len(said) == len(NAMES)


def test_the_command_reports_each(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["verify", str(folder), "--experts-modes"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("bit for bit the same") == len(NAMES)
    result = CliRunner().invoke(
        cli, ["verify", str(folder), "--experts-modes", "--json"]
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["equal"] for row in rows] == [True] * len(NAMES)


def test_it_stands_alone(folder: Path) -> None:
    command = ["verify", str(folder), "--experts-modes", "--kl"]
    assert CliRunner().invoke(cli, command).exit_code == 2


@pytest.mark.parametrize(
    ("prompt", "decode", "gpu", "equal"),
    [
        (0.0, 0.0, False, True),
        (1e-6, 0.0, False, False),
        (0.1, 0.0, True, True),
        (0.1, 1e-6, True, False),
        (0.5, 0.0, True, False),
        (float("inf"), 0.0, True, False),
    ],
)
def test_a_cpu_must_be_exact_and_a_gpu_in_decoding(
    prompt: float, decode: float, gpu: bool, equal: bool
) -> None:
    assert StorageComparison("x", prompt, decode, 1.0, gpu).equal is equal


def test_not_a_number_differs_from_everything() -> None:
    nan = mx.array([1.0, float("nan")])
    assert max_difference(nan, nan) == float("inf")


def test_dense_experts_have_one_storage_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are not quantized"):
        compare_modes(write(tmp_path, "dense").folder)


def test_too_little_memory_for_two_is_named(folder: Path) -> None:
    with pytest.raises(MemoryBudgetError, match="no two ways"):
        compare_modes(folder, memory="1MB")
