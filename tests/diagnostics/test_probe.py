"""The probe at small sizes: figures are positive, stored, and used by plans."""

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_gptoss.diagnostics import probe
from mlx_gptoss.diagnostics.probe import disk, layers, products
from mlx_gptoss.diagnostics.probe.layers import linear_layers
from mlx_gptoss.diagnostics.probe.products import TimedProduct, cold_seconds
from mlx_gptoss.diagnostics.probe.stopwatch import TimedPiece, time_rounds
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


def timed(table: str, rows: int, *seconds: float) -> TimedProduct:
    return TimedProduct(table, 192, rows, 10, TimedPiece(seconds=[*seconds]))


def test_one_slow_round_of_five_is_no_busy_machine() -> None:
    assert timed("dense", 1, 1, 1, 9, 1, 1).piece.spread == 1
    assert timed("dense", 1, 1, 2, 2, 1, 1).piece.spread == 2
    assert timed("dense", 1, 1, 3, 1).piece.spread == 3


@pytest.mark.parametrize(("seconds", "count"), [(1e-5, 32), (3e-4, 12), (1e-2, 4)])
def test_small_layers_are_timed_in_long_chains(seconds: float, count: int) -> None:
    """Starting a chain takes as long as some of them, and is not a part of any."""
    now = [0.0]

    def layer(x: mx.array) -> mx.array:
        now[0] += seconds
        return x

    four = [layer] * 4
    [found] = products.prepare_chains("dense", 64, four, (1,), 64, lambda: now[0])
    assert found.count == count
    time_rounds([found.piece], rounds=1, clock=lambda: now[0])
    assert found.piece.median / found.count == pytest.approx(seconds)


def test_small_layers_take_longer_from_memory() -> None:
    found = [timed("cold dense", 1, 5), timed("warm dense", 1, 2, 3, 2)]
    assert cold_seconds(found, "dense") == pytest.approx(0.3)
    assert cold_seconds(found[::-1], "dense") == pytest.approx(0.3)
    assert cold_seconds(found, "experts") == 0  # not timed
    faster = [timed("cold dense", 1, 2), timed("warm dense", 1, 3)]
    assert cold_seconds(faster, "dense") == 0


def test_cold_layers_are_more_than_a_cache_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "cache_bytes", lambda: 10 * 64 * 64 * 4)
    assert len(linear_layers(64, None)) == layers.FEW_COPIES
    found = linear_layers(64, None, cold=True)
    x = mx.random.normal((1, 64))
    for each in found:
        assert mx.allclose(each(x), found[0](x))
    assert len(found) == 10  # each has a bias too


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
