"""Interrupted conversions and how they are resumed."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.journal import Journal
from tests.support.checkpoints import random_tensors, write_folder
from tests.support.conversions import (
    CONFIG,
    SHARD_BYTES,
    TENSORS,
    interrupt,
    plan_of,
    resumed,
    undisturbed,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", CONFIG, TENSORS)


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> dict[str, bytes]:
    return undisturbed(source, tmp_path / "undisturbed")


def test_an_interrupted_conversion_leaves_only_the_partial_folder(
    source: Path, tmp_path: Path
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 20)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dst.partial", "source"]
    assert not (tmp_path / "dst.partial" / "config.json").exists()


@pytest.mark.parametrize("calls", [0, 1, 17, 40, 60])
def test_resume_gives_the_bytes_of_an_undisturbed_run(
    source: Path, tmp_path: Path, expected: dict[str, bytes], calls: int
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", calls)
    assert resumed(source, tmp_path / "dst") == expected


def test_resume_survives_being_interrupted_again_and_again(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    draw = random.Random(3)
    for _ in range(6):
        interrupt(plan_of(source), tmp_path / "dst", draw.randrange(60), resume=True)
    assert resumed(source, tmp_path / "dst") == expected


def test_resume_with_nothing_to_resume_starts_from_the_beginning(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    assert resumed(source, tmp_path / "dst") == expected


def test_finished_tensors_are_not_written_again(source: Path, tmp_path: Path) -> None:
    plan, seen = plan_of(source), []
    interrupt(plan, tmp_path / "dst", 40)
    journal = tmp_path / "dst.partial" / "journal.jsonl"
    done = len(journal.read_text().splitlines()) - 1
    journal_length = journal.stat().st_size
    interrupt(plan, tmp_path / "dst", 0, resume=True)
    assert (done > 0, journal.stat().st_size) == (True, journal_length)
    convert(
        plan,
        tmp_path / "dst",
        resume=True,
        progress=lambda done, total, tensor: seen.append(done),
    )
    assert seen == sorted(seen)
    assert seen[-1] == plan.nbytes


@pytest.mark.parametrize("ending", [".part", ""])
def test_resume_writes_damaged_bytes_again(
    source: Path, tmp_path: Path, expected: dict[str, bytes], ending: str
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 40)
    shards = (tmp_path / "dst.partial").glob(f"*.safetensors{ending}")
    path = max(shards, key=lambda path: path.name)
    raw = bytearray(path.read_bytes())
    for place in range(len(raw) // 7, len(raw), len(raw) // 7):
        raw[place] ^= 0xFF
    path.write_bytes(raw)
    assert resumed(source, tmp_path / "dst") == expected


def test_a_damaged_header_of_a_finished_shard_is_written_again(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 55)
    path = next((tmp_path / "dst.partial").glob("*.safetensors"))
    with path.open("r+b") as file:
        file.write(b"\xff" * 8)
    assert resumed(source, tmp_path / "dst") == expected


def test_another_recipe_is_not_taken_for_the_same_conversion(
    source: Path, tmp_path: Path
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 3)
    with pytest.raises(ConversionError, match="another recipe"):
        convert(plan_of(source, "q4"), tmp_path / "dst", resume=True)


def test_another_source_is_not_taken_for_the_same(source: Path, tmp_path: Path) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 3)
    config = CONFIG | {"rms_norm_eps": 1e-6}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="another source"):
        convert(plan_of(source), tmp_path / "dst", resume=True)


def test_changed_weights_of_the_same_shapes_are_noticed(
    source: Path, tmp_path: Path
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 40)
    write_folder(source, CONFIG, random_tensors(CONFIG, seed=10))
    with pytest.raises(ConversionError, match="not what"):
        convert(plan_of(source), tmp_path / "dst", resume=True)


def test_a_touched_but_equal_source_goes_on(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 40)
    os.utime(source / "model.safetensors", ns=(1, 1))
    assert resumed(source, tmp_path / "dst") == expected


KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES

source, dst, shard_bytes, calls = sys.argv[1:]
left = iter(range(int(calls)))

def progress(done, total, tensor):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint = open_checkpoint(source)
plan = make_plan(checkpoint, RECIPES["q8"], shard_bytes=int(shard_bytes))
convert(plan, Path(dst), resume=True, progress=progress)
"""


def test_a_killed_process_is_resumed_to_the_same_bytes(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    dst = tmp_path / "dst"
    for calls in (5, 50):
        options = [str(source), str(dst), str(SHARD_BYTES), str(calls)]
        command = [sys.executable, "-c", KILLED, *options]
        killed = subprocess.run(command, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert not dst.exists()
    assert resumed(source, dst) == expected


def test_two_conversions_never_write_one_folder(source: Path, tmp_path: Path) -> None:
    plan = plan_of(source)
    interrupt(plan, tmp_path / "dst", 3)
    journal = Journal(tmp_path / "dst.partial", plan.identity, {})
    with pytest.raises(ConversionError, match="another conversion is writing"):
        convert(plan, tmp_path / "dst", resume=True)
    journal.close()
