"""Conversions in real processes: killed, interrupted, out of disk or memory."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.plan.estimates import SLICES
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.source import SLICE_BYTES
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.journal import NAME, RESULT
from mlx_gptoss_convert.write.outputs import plan_output
from tests.support.checkpoints import hf_config, random_tensors, write_folder
from tests.support.gguf_conversions import write_tokenizer

CONFIG = hf_config(num_hidden_layers=2)
TENSORS = random_tensors(CONFIG, seed=9)
LARGE_ROWS = 64 * 1024  # rows of embedding and lm_head: 50 MB, tenths of a second
KILLS = {"mlx": 25, "hf": 12, "gguf": 12}
TMPFS_BYTES = 4 * 2**20

# argv: source, dst, limit of file bytes or 0, shard bytes or 0
CONVERT = """
import resource, signal, sys
from pathlib import Path
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.plan.shards import SHARD_BYTES

source, dst, file_bytes, shard_bytes = sys.argv[1:]
if int(file_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes), most))
plan = make_plan(
    open_checkpoint(source),
    RECIPES["q8"],
    shard_bytes=int(shard_bytes) or SHARD_BYTES,
)
try:
    convert(plan, Path(dst), resume=True, free_disk=lambda folder: 1 << 60)
except ConversionError as error:
    sys.exit(str(error))
"""

# Starts a child per kill; prints the duration of an uninterrupted conversion.
# argv: source, dst, to, kills, seed
KILLED = """
import os, random, select, signal, sys, time
from pathlib import Path
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.write.outputs import plan_output
from mlx_gptoss_convert.plan.recipe import RECIPES

source, dst, to, kills, seed = sys.argv[1:]
draw = random.Random(int(seed))

def start(dst):
    ends, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        opened = open_source(Path(source))
        plan = plan_output(opened, RECIPES["q8"], to=to, shard_bytes=300_000)
        convert(plan, Path(dst), resume=True)
        os._exit(0)
    os.close(end)
    return child, ends

def finish(child, ends, seconds):
    if not select.select([ends], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    os.close(ends)
    return os.waitpid(child, 0)[1]

before = time.perf_counter()
assert finish(*start(dst + "-undisturbed"), None) == 0
whole = time.perf_counter() - before
killed = 0
for _ in range(int(kills)):
    status = finish(*start(dst), draw.uniform(0, whole))
    assert status in (0, signal.SIGKILL), status
    killed += status == signal.SIGKILL
    if os.path.exists(dst):  # its bytes are compared below
        break
print(killed)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", CONFIG, TENSORS)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model whose conversion takes long enough to interrupt."""
    config = hf_config(num_hidden_layers=1)
    tensors = random_tensors(config, seed=1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((LARGE_ROWS, config["hidden_size"]), np.float32)
    return write_folder(
        tmp_path / "large", config | {"vocab_size": LARGE_ROWS}, tensors
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=True)


@pytest.mark.parametrize("to", KILLS)
def test_kills_at_random_moments_leave_what_can_be_resumed(
    source: Path, tmp_path: Path, to: str
) -> None:
    write_tokenizer(source / "tokenizer.json")
    seed = random.SystemRandom().randrange(1 << 32)
    found = run(KILLED, source, tmp_path / "dst", to, KILLS[to], seed)
    assert found.returncode == 0, (seed, found.stderr)
    if not (tmp_path / "dst").exists():
        opened = open_source(source)
        plan = plan_output(opened, RECIPES["q8"], to=to, shard_bytes=300_000)
        convert(plan, tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == contents(tmp_path / "dst-undisturbed"), seed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dst",
        "dst-undisturbed",
        "source",
    ]


def test_ctrl_c_leaves_a_partial_folder_that_can_be_resumed(
    large: Path, tmp_path: Path
) -> None:
    dst = tmp_path / "dst"
    command = [sys.executable, "-m", "mlx_gptoss", "convert", str(large), str(dst)]
    with subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "progress"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, b"Traceback" in errors) == (130, False), errors
    assert (dst.exists(), (tmp_path / "dst.partial").is_dir()) == (False, True)
    resumed = subprocess.run(
        [*command, "--resume"], capture_output=True, check=False, text=True
    )
    assert resumed.returncode == 0
    assert re.match("`.*of disk, where .* are free\nNext: ", resumed.stderr)
    convert(make_plan(open_checkpoint(large), RECIPES["q8"]), tmp_path / "whole")
    assert contents(dst) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "limit", [100, 20_000, pytest.param(500_000, marks=pytest.mark.soak)]
)
def test_a_limit_of_file_size_is_one_line_and_resumed_without_it(
    source: Path, tmp_path: Path, limit: int
) -> None:
    found = run(CONVERT, source, tmp_path / "dst", limit, 0)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
    assert "could not be finished: File too large" in found.stderr
    assert not (tmp_path / "dst").exists()
    assert run(CONVERT, source, tmp_path / "dst", 0, 0).returncode == 0
    assert run(CONVERT, source, tmp_path / "whole", 0, 0).returncode == 0
    assert contents(tmp_path / "dst") == contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of a few MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(disk)]
    try:
        made = subprocess.run(command, capture_output=True, check=False, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if made.returncode:
        pytest.skip(f"a small disk takes the right to mount: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_resumed_with_room(
    source: Path, tmp_path: Path, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    for left in (0, 400_000):
        ballast.write_bytes(bytes(TMPFS_BYTES - 2**16 - left))
        found = run(CONVERT, source, small_disk / "dst", 0, 0)
        assert (found.returncode, found.stderr.count("\n")) == (1, 1), found.stderr
        assert "could not be finished: No space left on device" in found.stderr
        assert not (small_disk / "dst").exists()
        ballast.unlink()
    assert run(CONVERT, source, small_disk / "dst", 0, 0).returncode == 0
    assert run(CONVERT, source, tmp_path / "whole", 0, 0).returncode == 0
    assert contents(small_disk / "dst") == contents(tmp_path / "whole")


def test_a_shard_that_changes_before_it_is_read_gives_no_result(
    tmp_path: Path, source: Path
) -> None:
    """Every file of the source is watched from the start, not only open ones."""
    split = tmp_path / "split"
    plan = make_plan(open_checkpoint(source), RECIPES["q8"], shard_bytes=300_000)
    convert(plan, split)
    last = sorted(split.glob("*.safetensors"))[-1]

    def progress(done: int, total: int, tensor: str) -> None:
        if done < total // 4:
            os.utime(last, ns=(1, 1))

    plan = make_plan(open_checkpoint(split), RECIPES["q4"])
    with pytest.raises(ConversionError, match="changed while it was read"):
        convert(plan, tmp_path / "dst", progress=progress)
    assert not (tmp_path / "dst").exists()


def test_a_folder_killed_just_before_its_name_is_not_another_conversion(
    tmp_path: Path, source: Path
) -> None:
    plan = make_plan(open_checkpoint(source), RECIPES["q8"], shard_bytes=300_000)
    convert(plan, tmp_path / "dst")
    expected = contents(tmp_path / "dst")
    (tmp_path / "dst").rename(tmp_path / "dst.partial")
    assert (tmp_path / "dst.partial" / RESULT).exists()
    other = make_plan(open_checkpoint(source), RECIPES["q4"])
    with pytest.raises(ConversionError, match="another recipe"):
        convert(other, tmp_path / "dst", resume=True)
    convert(plan, tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == expected
    assert NAME not in expected


MEASURED = """
import sys
from pathlib import Path
from mlx_gptoss.diagnostics.bench.peak import peak_rss
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.plan.estimates import peak_bytes
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES, with_experts

source, dst, bits = sys.argv[1:]
recipe = with_experts(RECIPES["q8"], bits=int(bits) or None)
before = peak_rss()
plan = make_plan(open_checkpoint(source), recipe)
convert(plan, Path(dst))
print(peak_rss() - before, peak_bytes(plan))
"""


@pytest.mark.parametrize("bits", [0, 3])
def test_memory_stays_below_what_was_said_beforehand(tmp_path: Path, bits: int) -> None:
    """Each expert takes 16 MB in float32."""
    config = hf_config(num_hidden_layers=1, hidden_size=1024, intermediate_size=2048)
    folder = write_folder(tmp_path / "source", config, random_tensors(config, seed=1))
    found = run(MEASURED, folder, tmp_path / "dst", bits)
    assert found.returncode == 0, found.stderr
    growth, bound = map(int, found.stdout.split())
    assert growth < bound < 10**9
    assert bound >= SLICES * SLICE_BYTES
