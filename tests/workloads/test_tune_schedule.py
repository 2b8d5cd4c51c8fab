"""The learning rate rises to its peak, then falls along a cosine."""

import math

from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.workloads.tune.schedule import learning_rate


def rates(steps: int, warmup: int, final: float = 0.1) -> list[float]:
    return [
        learning_rate(step, steps, peak=2.0, warmup=warmup, final=final)
        for step in range(steps)
    ]


@given(st.integers(1, 200), st.integers(0, 50), st.floats(0, 1))
def test_it_rises_in_the_warm_up_and_falls_behind_it(
    steps: int, warmup: int, final: float
) -> None:
    found = rates(steps, min(warmup, steps - 1), final)
    top = min(warmup, steps - 1)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert all(0 <= rate <= 2 * (1 + 1e-12) for rate in found)


def test_the_peak_follows_the_warm_up_and_the_last_step_has_the_final_rate() -> None:
    found = rates(101, 20)
    assert math.isclose(found[0], 2 / 21)
    assert found[20] == 2
    assert math.isclose(found[60], 2 * (0.1 + 0.9 / 2))  # half of the cosine
    assert math.isclose(found[-1], 0.2)


def test_a_run_of_one_step_has_the_final_rate() -> None:
    assert math.isclose(rates(1, 0)[0], 0.2)
