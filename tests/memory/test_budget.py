"""Memory budgets hold in real processes, by the peak that the system reports.

By hand, on 3.7 GB: `pytest -m soak tests/memory/test_budget.py`, which takes a folder
that is there already from $MLX_GPTOSS_LARGE.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.experts import SHAPE_120B
from mlx_gptoss.diagnostics.bench.random_checkpoint import make_config, write_config
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import plan_checkpoint
from mlx_gptoss.memory import Plan
from tests.support import checkpoints

ROOT = Path(__file__).parents[2]
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
LEAST, MOST = SHARES[0], SHARES[-1]
ROOMY = 10**10
LARGE = "MLX_GPTOSS_LARGE"
# Where groups can be made and how their limit is called: versions 1 and 2.
CGROUPS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}


@dataclass(frozen=True)
class Group:
    """A memory cgroup: page cache counts too, and the system takes that back first."""

    folder: Path
    limit: str

    def allow(self, memory: int) -> None:
        (self.folder / self.limit).write_text(str(memory))

    def join(self) -> None:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("budget"), **SIZES)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of the 120b, 3.7 GB: as there, nearly all of it are experts."""
    if (given := os.environ.get(LARGE)) is not None:
        return Path(given)
    folder = tmp_path_factory.mktemp("large") / "model"
    return write_config(folder, make_config(SHAPE_120B, 2))


def resident_plan(folder: Path) -> Plan:
    options = LoadOptions(
        dtype="float32", memory="100GB", context=CONTEXT, experts="resident"
    )
    return plan_checkpoint(open_checkpoint(folder), options)


def measured(
    folder: Path, memory: int, *, joins: Callable[[], None] | None = None
) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "tests.support.budget_run",
        folder,
        memory,
        CONTEXT,
    ]
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


def budget(folder: Path, share: float) -> int:
    """What the rest takes, and a share of the experts, as a whole process sees it."""
    plan = resident_plan(folder)
    experts = plan.bytes_by_part["experts"]
    return int(plan.total_bytes - experts * (1 - share) * 0.9)


@pytest.fixture(scope="module")
def plain(small: Path) -> dict[str, Any]:
    """What the small model takes and says with all of it in memory."""
    return measured(small, ROOMY)


@pytest.mark.parametrize("share", [LEAST, MOST])
def test_the_process_stays_below_its_budget(
    small: Path, plain: dict[str, Any], share: float
) -> None:
    assert plain["mode"] == "resident"
    memory = budget(small, share)
    check(measured(small, memory), memory, plain["tokens"])


@pytest.fixture(scope="module")
def plain_tokens(large: Path) -> list[int]:
    """What the model says with all of it in memory."""
    return measured(large, 10**11)["tokens"]


@pytest.mark.soak
@pytest.mark.parametrize("share", SHARES)
def test_shares_of_a_large_model_are_obeyed(
    large: Path, plain_tokens: list[int], share: float
) -> None:
    memory = int(share * resident_plan(large).weight_bytes)
    found = measured(large, memory)
    print(share, memory, found)
    check(found, memory, plain_tokens)


@pytest.fixture
def cgroup() -> Iterator[Group]:
    """Make a group of processes whose memory can be limited, where that is allowed."""
    name = f"mlx-gptoss-{uuid.uuid4().hex[:8]}"
    for root, limit in CGROUPS.items():
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            yield Group(group, limit)
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("needs the right to make memory cgroups; the budgets above need none")


def test_a_limit_that_kills_lets_it_live(
    small: Path, plain: dict[str, Any], cgroup: Group
) -> None:
    """A process that took more than its budget would end here, by the system's hand."""
    memory = budget(small, LEAST)
    cgroup.allow(memory)
    check(measured(small, memory, joins=cgroup.join), memory, plain["tokens"])


def test_the_limit_does_kill(small: Path, plain: dict[str, Any], cgroup: Group) -> None:
    """Or the test above would say nothing: arrays alone fill the group, Python too."""
    cgroup.allow(plain["mlx_peak"])
    with pytest.raises(AssertionError):
        measured(small, ROOMY, joins=cgroup.join)


@pytest.mark.soak
@pytest.mark.parametrize("share", SHARES)
def test_a_large_model_lives_under_its_limit(
    large: Path, plain_tokens: list[int], cgroup: Group, share: float
) -> None:
    memory = int(share * resident_plan(large).weight_bytes)
    cgroup.allow(memory)
    check(measured(large, memory, joins=cgroup.join), memory, plain_tokens)
