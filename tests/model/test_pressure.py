"""Memory pressure shrinks pools one by one; after a quiet period they grow back."""

from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_gptoss.model.device import on_gpu
from mlx_gptoss.model.experts import pressure
from mlx_gptoss.model.experts.pressure import (
    CRITICAL,
    GROW,
    NORMAL,
    SHRINK,
    STAY,
    WARNING,
    MemoryPressure,
)
from tests.support.streaming import resident, streamed, write


class System:
    """A system whose pressure level and clock the test sets."""

    def __init__(self) -> None:
        self.now, self.level = 1000.0, NORMAL
        self.pressure = MemoryPressure(lambda: self.level, lambda: self.now)

    def after(self, seconds: float, level: int | None = None) -> int:
        self.now += seconds
        self.level = self.level if level is None else level
        return self.pressure.direction()


def test_a_warning_counts_once_it_has_lasted() -> None:
    system = System()
    assert system.after(1, WARNING) == STAY
    assert system.after(pressure.CONFIRM_SECONDS) == SHRINK


def test_a_warning_that_passes_is_ignored() -> None:
    system = System()
    assert [system.after(1, level) for level in (WARNING, NORMAL, WARNING)] == [
        STAY
    ] * 3


def test_a_critical_level_counts_at_once() -> None:
    assert System().after(1, CRITICAL) == SHRINK


def test_rounds_have_pauses() -> None:
    system = System()
    assert system.after(1, CRITICAL) == SHRINK
    system.pressure.finish_round()
    assert system.after(pressure.PAUSE_SECONDS - 1) == STAY
    assert system.after(1) == SHRINK


def test_growing_waits_for_quiet() -> None:
    system = System()
    system.after(1, CRITICAL)
    system.pressure.finish_round()
    assert system.after(5, NORMAL) == STAY
    assert system.after(pressure.GROW_AFTER_SECONDS) == GROW


def test_it_asks_the_system_now_and_then_only() -> None:
    asked = []
    clock = iter([0.0, 0.1, 0.2, 0.3])
    watched = MemoryPressure(lambda: asked.append(1) or CRITICAL, lambda: next(clock))
    assert [watched.direction() for _ in range(3)] == [SHRINK, STAY, STAY]
    assert asked == [1]


def test_the_system_can_be_asked() -> None:
    assert pressure.read_system_level() in (NORMAL, WARNING, CRITICAL)


@pytest.mark.skipif(on_gpu(), reason="kernels of a GPU round differently")
def test_pools_shrink_one_at_a_time_and_grow_back(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    plain, system = resident(checkpoint), System()
    expected, cache = [], plain.make_cache()
    tokens = [mx.array([[n]]) for n in range(30, 60)]
    expected = [plain(token, cache) for token in tokens]
    sizes: list[tuple[int, ...]] = []
    with streamed(checkpoint, 8, pressure=system.pressure) as found:
        cache = found.model.make_cache()
        layers = found.storage.layers
        for n, token in enumerate(tokens):
            system.now += (
                pressure.PAUSE_SECONDS + 1
                if n < 20
                else pressure.GROW_AFTER_SECONDS + 1
            )
            system.level = CRITICAL if n < 20 else NORMAL
            logits = found.model(token, cache)
            assert mx.array_equal(logits, expected[n]), n
            sizes.append(tuple(layers[layer].slots for layer in range(3)))
    shrunk = sizes[19]
    assert shrunk == (3, 3, 3)  # the least: a token takes three
    assert sizes[-1] == (8, 8, 8)
    for before, after in pairwise(sizes):
        assert all(abs(a - b) <= 3 for a, b in zip(before, after, strict=True))


def test_a_round_touches_one_layer_before_the_next(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    system = System()
    with streamed(checkpoint, 8, pressure=system.pressure) as found:
        layers = found.storage.layers
        system.now, system.level = system.now + 1, CRITICAL
        peak = []
        for layer in range(3):
            experts = layers[layer]
            experts._before(experts)
            peak.append([layers[n].target_slots for n in range(3)])
        assert peak == [[6, 8, 8], [6, 6, 8], [6, 6, 6]]
