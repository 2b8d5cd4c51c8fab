"""Budgets are obeyed: real processes, and the peak the system saw of them.

By hand, on 2 GB and more: `pytest -m soak tests/test_budget.py`.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_gptoss.bench.random_checkpoint import write_random
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.loading import plan_checkpoint
from mlx_gptoss.memory import Plan
from tests import checkpoints

ROOT = Path(__file__).parents[1]
CONTEXT = 256
SIZES: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
SHARES = [0.25, 0.5, 0.75]
CGROUP = Path("/sys/fs/cgroup/memory")  # version 1
CGROUP_LIMIT = "memory.limit_in_bytes"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("budget"), **SIZES)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("large") / "model", 2 * 10**9)


def resident_plan(folder: Path) -> Plan:
    dtype = mx.float32
    return plan_checkpoint(
        open_checkpoint(folder), dtype, "100GB", CONTEXT, experts="resident"
    )


def measured(
    folder: Path, memory: int, *, joins: Callable[[], None] | None = None
) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.budget_run", folder, memory, CONTEXT]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=joins,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict[str, Any], memory: int, tokens: list[int]) -> None:
    assert found["slots"] > 0
    assert found["planned"] <= memory
    assert found["mlx_peak"] <= memory
    assert found["rss_peak"] <= memory
    assert found["active_after_close"] < 10_000
    assert found["tokens"] == tokens


def budgets(folder: Path) -> list[int]:
    """What the rest takes, and shares of the experts, as a whole process sees it."""
    plan = resident_plan(folder)
    experts = plan.bytes_by_part["experts"]
    return [int(plan.total_bytes - experts * (1 - share) * 0.9) for share in SHARES]


def test_the_process_stays_below_its_budget(small: Path) -> None:
    plain = measured(small, 10**10)
    assert plain["mode"] == "resident"
    for memory in budgets(small):
        check(measured(small, memory), memory, plain["tokens"])


@pytest.mark.soak
@pytest.mark.parametrize("share", SHARES)
def test_shares_of_a_large_model_are_obeyed(large: Path, share: float) -> None:
    plain = measured(large, 10**11)
    memory = int(share * resident_plan(large).weight_bytes)
    check(measured(large, memory), memory, plain["tokens"])


@pytest.fixture
def cgroup() -> Iterator[Path]:
    if not os.access(CGROUP / "cgroup.procs", os.W_OK):
        pytest.skip("needs a memory cgroup that can be made")
    group = CGROUP / f"mlx-gptoss-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    yield group
    group.rmdir()


@pytest.mark.soak
def test_a_limit_that_kills_lets_it_live(large: Path, cgroup: Path) -> None:
    memory = int(0.5 * resident_plan(large).weight_bytes)
    (cgroup / CGROUP_LIMIT).write_text(str(memory))
    plain = measured(large, 10**11)

    def joins() -> None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    check(measured(large, memory, joins=joins), memory, plain["tokens"])
