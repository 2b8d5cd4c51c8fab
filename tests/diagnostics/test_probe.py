"""The probe at small sizes: figures are positive, stored, and used by plans."""

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_gptoss.diagnostics import probe
from mlx_gptoss.diagnostics.probe import disk
from mlx_gptoss.errors import ConfigError, GptOssError
from mlx_gptoss.memory.saved_probe import (
    Probe,
    describe_this_machine,
    load_probe,
    save_probe,
)

MEGA = 10**6
TINY = probe.ProbeScale(
    largest=64, rounds=1, model_rounds=1, prompt=16, answer=3, matrix_rows=64
)


def test_everything_is_measured(tmp_path: Path) -> None:
    said: list[str] = []
    found = probe.probe(tmp_path, size=MEGA, progress=said.append, scale=TINY)
    assert found.ssd > MEGA and found.bandwidth > MEGA
    assert 0 < found.read_seconds < 1
    assert 0 <= found.sync_seconds < 1
    assert found.costs is not None
    assert set(found.costs.dense.points) == {64 * 64}
    assert found.costs.score > 0
    assert len(said) == 4
    assert list(tmp_path.iterdir()) == []  # the file is gone


def test_every_byte_of_the_disk_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    disk.write_uncached(path, 9 * MEGA)
    assert path.stat().st_size == 9 * MEGA
    assert disk.time_reads(path, 9 * MEGA) > 0


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(GptOssError, match="has no room to measure"):
        disk.measure_disk(tmp_path, 1 << 60)


def test_a_probe_is_kept_and_used_on_its_own_device_only(tmp_path: Path) -> None:
    device = str(mx.device_info().get("device_name", ""))
    found = Probe(device, 5e9, 100e9, 1e-3, 40e9)
    path = save_probe(found, tmp_path / "new" / "probe.json")
    assert load_probe(path) == found
    machine = describe_this_machine(path)
    assert (machine.ssd, machine.sync_seconds, machine.measured) == (5e9, 1e-3, True)
    assert machine.expert_rate == 40e9
    older = Probe(device, 5e9, 100e9, 1e-3)
    assert describe_this_machine(save_probe(older, path)).expert_rate is None
    save_probe(Probe("another", 5e9, 100e9, 1e-3), path)
    assert not describe_this_machine(path).measured
    assert not describe_this_machine(tmp_path / "none").measured


def test_a_damaged_probe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="delete it, then run `mlx-gptoss probe`"):
        describe_this_machine(path)
