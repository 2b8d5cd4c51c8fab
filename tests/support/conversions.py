"""Small conversions that are interrupted at a chosen piece, and their results."""

from pathlib import Path

import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss_convert.plan.plan import ConversionPlan, make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.write.conversion import Progress, convert
from tests.support.checkpoints import hf_config, random_tensors

CONFIG = hf_config(num_hidden_layers=2)


TENSORS = random_tensors(CONFIG, seed=9)


SHARD_BYTES = 300_000


class Stopped(Exception):
    """Raised in place of Ctrl-C, a crash or a power failure."""


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


def undisturbed(source: Path, dst: Path) -> dict[str, bytes]:
    """Convert without interruption; return the files of the result."""
    convert(plan_of(source), dst)
    return contents(dst)


def interrupted_journal(source: Path, dst: Path) -> Path:
    """Interrupt a conversion into `dst` after 40 pieces; return its journal."""
    interrupt(plan_of(source), dst, 40)
    return dst.with_name(f"{dst.name}.partial") / "journal.jsonl"


def resumed(source: Path, dst: Path) -> dict[str, bytes]:
    """Resume a conversion to its end; return the files of the result."""
    convert(plan_of(source), dst, resume=True)
    return contents(dst)
