"""Short products in numpy are made by one thread, long ones by all, and equal."""

import json
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from mlx_gptoss.model.host_product import (
    MIN_SHARED_PRODUCTS,
    multiply,
    one_thread,
    thread_count,
)

ALL = thread_count()
threaded = pytest.mark.skipif(
    ALL is None or ALL < 2, reason="numpy has one thread, or another BLAS"
)


class Watched(np.ndarray):
    """An array that notes how many threads numpy has when it is multiplied."""

    seen: list[int | None]

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, **more: Any
    ) -> Any:
        self.seen.append(thread_count())
        return getattr(ufunc, method)(*map(np.asarray, inputs), **more)


def watched(shape: tuple[int, int]) -> Watched:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32).view(Watched)
    x.seen = []
    return x


@threaded
@pytest.mark.parametrize(
    ("rows", "threads"),
    [(MIN_SHARED_PRODUCTS // 200**2 - 1, 1), (MIN_SHARED_PRODUCTS // 200**2, ALL)],
)
def test_a_product_has_the_threads_that_gain_something(
    rows: int, threads: int | None
) -> None:
    x, w = watched((rows, 200)), np.ones((200, 200), np.float32)
    y = multiply(x, w)
    assert x.seen == [threads]
    np.testing.assert_allclose(y, np.asarray(x) @ w, rtol=1e-4, atol=1e-4)


@threaded
def test_all_threads_are_there_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="mismatch"):
        multiply(np.ones((3, 4), np.float32), np.ones((5, 6), np.float32))
    assert thread_count() == ALL


@threaded
def test_the_last_of_several_callers_gives_the_threads_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            inside.set()
            leave.wait(60)

    caller = threading.Thread(target=other)
    with one_thread():
        caller.start()
        assert inside.wait(60)
    assert thread_count() == 1  # the other still multiplies
    leave.set()
    caller.join(60)
    assert thread_count() == ALL


# numpy's threads are those that appear when it is imported. One that is woken from its
# sleep has switched contexts once more.
WOKEN = """
import json, os, time
from pathlib import Path

def switches(thread):
    lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("voluntary_ctxt"))

def tasks():
    return {int(x) for x in os.listdir("/proc/self/task")}

import mlx_gptoss
before = tasks()
import numpy as np
own = tasks() - before
import mlx.core as mx
from mlx_gptoss.model.experts.projection import Projection
from mlx_gptoss.model.host_attention import attend_on_host
time.sleep(0.2)

def woken(run):
    counts = {x: switches(x) for x in own}
    for _ in range(20):
        run()
        time.sleep(0.002)
    return sum(switches(x) - n for x, n in counts.items())

q, k = mx.random.normal((1, 8, 64, 64)), mx.random.normal((1, 2, 256, 64))
sinks = mx.zeros(8)
experts = Projection(2, 64, 128, None)
rows = np.ones((64, 64), np.float32)
large = np.ones((1024, 1024), np.float32)
print(json.dumps({
    "attention": woken(lambda: attend_on_host(
        q, k, k, scale=0.1, sinks=sinks, window=None)),
    "experts": woken(lambda: experts.multiply_on_host(rows, 1)),
    "large": woken(lambda: large @ large),
}))
"""


@threaded
@pytest.mark.skipif(sys.platform != "linux", reason="it counts what Linux counts")
def test_attention_and_experts_of_small_models_wake_no_other_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WOKEN],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found.pop("large") >= 10  # it counts
    assert found == {"attention": 0, "experts": 0}
