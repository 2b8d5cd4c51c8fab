"""A busy machine is recognized: by others' CPU time, by the load, by waiting."""

import os
from pathlib import Path

import pytest

from mlx_gptoss.diagnostics.probe.busy import BusyWatch

TICKS = os.sysconf("SC_CLK_TCK")
IDLE = "cpu  {user} 0 0 999999 55 0 0 {steal} 7 0\ncpu0 1 2 3 4\n"


def watch(path: Path, *, load: float = 0.0) -> BusyWatch:
    return BusyWatch(path, cores=2, load=load)


def spent(path: Path, user: float, steal: float = 0.0) -> None:
    path.write_text(IDLE.format(user=int(user * TICKS), steal=int(steal * TICKS)))


@pytest.mark.parametrize("kind", ["user", "steal"])
def test_the_time_of_other_programs_counts(tmp_path: Path, kind: str) -> None:
    stat = tmp_path / "stat"
    spent(stat, 100)
    found = watch(stat)
    spent(stat, **({"user": 1100} if kind == "user" else {"user": 100, "steal": 1000}))
    (reason,) = found.reasons()
    assert reason.startswith("other programs used ")
    assert reason.endswith(" of 2 cores")


def test_an_idle_machine_is_not_busy(tmp_path: Path) -> None:
    spent(tmp_path / "stat", 100)
    found = watch(tmp_path / "stat", load=9.0)  # of what ended before
    found.spun, found.waited = 1.0, 0.01
    assert found.reasons(spread=1.1) == []


@pytest.mark.parametrize("text", [None, "", "intr 5\n"])
def test_without_such_times_the_load_counts(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert watch(tmp_path / "stat", load=0.5).reasons() == []
    (reason,) = watch(tmp_path / "stat", load=1.5).reasons()
    assert reason == "the load was 1.5 on 2 cores"


def test_waiting_and_spread_count_anywhere(tmp_path: Path) -> None:
    found = watch(tmp_path / "none")
    found.spun, found.waited = 1.0, 0.25
    waited, spread = found.reasons(spread=1.6)
    assert waited == "other programs had the core for 25% of the time"
    assert spread == "repeats of a measurement differed by 1.6x"


def test_a_loop_measures_its_own_time() -> None:
    found = watch(Path("/proc/stat"))
    found.spin(0.01)
    assert 0.01 <= found.spun < 5
    assert 0 <= found.waited <= found.spun
