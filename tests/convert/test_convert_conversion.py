"""Conversions that are stopped, refused or taken up again."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.plan.plan import ConversionPlan, make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.write.conversion import Progress, convert
from mlx_gptoss_convert.write.journal import Journal
from tests.support.checkpoints import hf_config, random_tensors, write_folder

CONFIG = hf_config(num_hidden_layers=2)
TENSORS = random_tensors(CONFIG, seed=9)
SHARD_BYTES = 300_000


class Stopped(Exception):
    """Stands for Ctrl-C, a crash, a power cut."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", CONFIG, TENSORS)


def plan_of(source: Path, recipe: str = "q8") -> ConversionPlan:
    return make_plan(open_checkpoint(source), RECIPES[recipe], shard_bytes=SHARD_BYTES)


def stop_after(calls: int) -> Progress:
    left = iter(range(calls))

    def progress(done: int, total: int, tensor: str) -> None:
        if next(left, None) is None:
            raise Stopped

    return progress


def interrupt(
    plan: ConversionPlan, dst: Path, calls: int, *, resume: bool = False
) -> None:
    with pytest.raises(Stopped):
        convert(plan, dst, resume=resume, progress=stop_after(calls))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> dict[str, bytes]:
    convert(plan_of(source), tmp_path / "undisturbed")
    return contents(tmp_path / "undisturbed")


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
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


def test_resume_survives_being_interrupted_again_and_again(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    draw = random.Random(3)
    for _ in range(6):
        interrupt(plan_of(source), tmp_path / "dst", draw.randrange(60), resume=True)
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


def test_resume_with_nothing_to_resume_starts_from_the_beginning(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


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
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


def test_a_damaged_header_of_a_finished_shard_is_written_again(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 55)
    path = next((tmp_path / "dst.partial").glob("*.safetensors"))
    with path.open("r+b") as file:
        file.write(b"\xff" * 8)
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


def test_a_line_cut_short_in_the_journal_never_counted(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 40)
    journal = tmp_path / "dst.partial" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 4096,
        b"\0" * 37 + b"\n",
        b"{}\n",
        b'{"outputs":{}}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=["zeros", "a line of zeros", "nothing", "no source", "deep"],
)
def test_what_no_step_wrote_behind_a_journal_never_counted(
    source: Path, tmp_path: Path, expected: dict[str, bytes], tail: bytes
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 40)
    journal = tmp_path / "dst.partial" / "journal.jsonl"
    done = journal.read_bytes()
    journal.write_bytes(done + tail)
    interrupt(plan_of(source), tmp_path / "dst", 0, resume=True)
    assert journal.read_bytes() == done
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


def test_zeros_within_a_journal_cost_the_steps_behind_them(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 40)
    journal = tmp_path / "dst.partial" / "journal.jsonl"
    first, second, *rest = journal.read_bytes().splitlines(keepends=True)
    assert rest
    zeros = b"\0" * len(rest[0])
    journal.write_bytes(b"".join([first, second, zeros, *rest[1:]]))
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


@pytest.mark.parametrize("opening", [b"\0" * 512, b"{}\n", b"\xff\n", b'["a"]\n'])
def test_a_journal_that_does_not_say_of_what_it_is_is_refused(
    source: Path, tmp_path: Path, opening: bytes
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 40)
    journal = tmp_path / "dst.partial" / "journal.jsonl"
    journal.write_bytes(opening)
    with pytest.raises(ConversionError, match=r"is damaged .*: remove `.*partial`"):
        convert(plan_of(source), tmp_path / "dst", resume=True)


@pytest.mark.parametrize("result", [b"\0\0", b"[]", b"{"])
def test_a_damaged_result_is_refused(
    source: Path, tmp_path: Path, result: bytes
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 0)
    partial = tmp_path / "dst.partial"
    (partial / "journal.jsonl").unlink()
    (partial / "conversion.json").write_bytes(result)
    with pytest.raises(ConversionError, match="is damaged"):
        convert(plan_of(source), tmp_path / "dst", resume=True)


def test_an_existing_target_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "dst").mkdir()
    with pytest.raises(ConversionError, match="already exists"):
        convert(plan_of(source), tmp_path / "dst")


def test_a_partial_folder_is_refused_without_resume(
    source: Path, tmp_path: Path
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 3)
    with pytest.raises(ConversionError, match="--resume"):
        convert(plan_of(source), tmp_path / "dst")


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
    convert(plan_of(source), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected


def test_a_source_that_changes_underneath_gives_no_result(
    source: Path, tmp_path: Path
) -> None:
    changed = iter([True])

    def progress(done: int, total: int, tensor: str) -> None:
        if done > total // 2 and next(changed, False):
            os.utime(source / "model.safetensors", ns=(1, 1))

    with pytest.raises(ConversionError, match="changed while it was read"):
        convert(plan_of(source), tmp_path / "dst", progress=progress)
    assert not (tmp_path / "dst").exists()


def test_a_disk_too_small_is_refused_before_the_first_byte(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=r"needs .* free: make room"):
        convert(plan_of(source), tmp_path / "dst", free_disk=lambda path: 1000)
    assert not (tmp_path / "dst.partial").exists()


def test_a_target_without_a_parent_folder_is_refused(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match="is not a folder"):
        convert(plan_of(source), tmp_path / "nowhere" / "dst")


def test_two_conversions_never_write_one_folder(source: Path, tmp_path: Path) -> None:
    plan = plan_of(source)
    interrupt(plan, tmp_path / "dst", 3)
    journal = Journal(tmp_path / "dst.partial", plan.identity, {})
    with pytest.raises(ConversionError, match="another conversion is writing"):
        convert(plan, tmp_path / "dst", resume=True)
    journal.close()


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
    convert(plan_of(source), dst, resume=True)
    assert contents(dst) == expected


def test_nothing_of_the_source_is_written_to(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    for path in source.iterdir():
        path.chmod(0o444)
    convert(plan_of(source), tmp_path / "dst")
    assert contents(source) == before


MEASURED = """
import sys
from pathlib import Path
from mlx_gptoss.diagnostics.bench.peak import peak_rss
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES

source, dst = sys.argv[1:]
before = peak_rss()
convert(make_plan(open_checkpoint(source), RECIPES["q8"]), Path(dst))
print(peak_rss() - before, "mlx.core" in sys.modules)
"""


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    config = hf_config(num_hidden_layers=1)
    tensors = random_tensors(config, seed=1)
    rows = 64 * 1024
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((rows, config["hidden_size"]), np.float32)
    source = write_folder(tmp_path / "source", config | {"vocab_size": rows}, tensors)
    command = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "dst")]
    found = subprocess.run(command, capture_output=True, check=True, text=True)
    growth, starts_mlx = found.stdout.split()
    # One such matrix as float32, its codes and its packed bytes would take 120 MB.
    # With four workers, a slice each, it was 58 MB.
    assert int(growth) < 80 * 2**20, growth
    assert starts_mlx == "False"
