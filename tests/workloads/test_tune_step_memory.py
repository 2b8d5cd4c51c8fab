"""MLX waits for its streams where a step has taken the planned memory."""

import mlx.core as mx
import pytest

from mlx_gptoss.memory import Budget
from mlx_gptoss.memory.training import TrainingLoad, TrainingPlan
from mlx_gptoss.model.device import second_stream
from mlx_gptoss.workloads.tune.step_memory import limited_memory

MB = 2**20
EACH = 4 * MB
COUNT = 40  # arrays, one after another


def late_arrays() -> mx.array:
    """Return a sum of arrays that are allocated while their stream is busy."""
    total = mx.sort(mx.random.uniform(shape=(2**19,)))[0] * 0
    for _ in range(COUNT):
        total = (mx.ones(EACH // 4) + total).max()
    return total


@pytest.mark.parametrize("second", [False, True])
def test_what_is_queued_waits_at_the_limit(second: bool) -> None:
    mx.eval(mx.array(0.0) + 1)
    with mx.stream(second_stream() if second else mx.default_stream(mx.cpu)):
        total = late_arrays()
    limit = 8 * MB  # of which 6 are the sorted values, and what makes them
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    with limited_memory(limit):
        assert total.item() == COUNT  # pyright: ignore
    assert mx.get_peak_memory() - before < limit + 2 * EACH


def test_the_limit_is_what_it_was_afterwards() -> None:
    before = mx.set_memory_limit(10**9)
    try:
        with pytest.raises(ValueError, match="in a step"), limited_memory(10**6):
            assert mx.set_memory_limit(10**8) < 10**9
            raise ValueError("in a step")
        assert mx.set_memory_limit(10**9) == 10**9
        with limited_memory(10**12), limited_memory(None):
            assert mx.set_memory_limit(10**9) == 10**9, "a lower limit was raised"
    finally:
        mx.set_memory_limit(before)


def test_a_step_takes_what_does_not_stay() -> None:
    load = TrainingLoad((8,), 8, layers=1, trained_values=10, rank=1)
    plan = TrainingPlan(1000, 4 * 40, 500, 70, load, Budget(10**9, 10**9, "a test"))
    assert plan.array_bytes == 1730
    assert plan.step_bytes == 40 + 500 + 70  # of the trained numbers the gradient
