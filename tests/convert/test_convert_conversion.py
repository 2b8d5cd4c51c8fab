"""Conversions that are refused, and what they leave alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.write.conversion import convert
from tests.support.checkpoints import hf_config, random_tensors, write_folder
from tests.support.conversions import CONFIG, TENSORS, contents, interrupt, plan_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", CONFIG, TENSORS)


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
    # A whole matrix as float32, with its codes and packed bytes, would take 120 MB.
    # Four workers with a slice each took 58 MB.
    assert int(growth) < 80 * 2**20, growth
    assert starts_mlx == "False"
