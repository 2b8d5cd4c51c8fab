"""Measure the device's memory, and how long it takes to wait for it."""

import time

import mlx.core as mx

from mlx_gptoss.diagnostics.probe.stopwatch import ProbeScale

MATRIX_COLUMNS = 4096
VECTOR_ROUNDS = 4
WAITS = 64  # layers of the chain; about two tokens of the 120b
CHAIN_SIZE = 512
CHAIN_ROUNDS = 3


def measure_memory(rows: int = ProbeScale().matrix_rows) -> float:
    """Multiply a matrix larger than any cache by a vector: bytes per second."""
    matrix = mx.ones((rows, MATRIX_COLUMNS), mx.float32)
    vector = mx.ones((MATRIX_COLUMNS, 1), mx.float32)
    mx.eval(matrix, vector)
    best = float("inf")
    for _ in range(VECTOR_ROUNDS):
        started = time.perf_counter()
        mx.eval(matrix @ vector)
        best = min(best, time.perf_counter() - started)
    return matrix.nbytes / best


def measure_sync() -> float:
    """Compare a chain of small products with and without a wait after each: seconds."""
    x, w = mx.ones((1, CHAIN_SIZE)), mx.ones((CHAIN_SIZE, CHAIN_SIZE)) / CHAIN_SIZE
    mx.eval(x, w)

    def chain(*, waiting: bool) -> float:
        started = time.perf_counter()
        y = x
        for _ in range(WAITS):
            y = y @ w
            if waiting:
                mx.eval(y)
        mx.eval(y)
        return time.perf_counter() - started

    chain(waiting=True)  # compiles and warms up
    lazy = min(chain(waiting=False) for _ in range(CHAIN_ROUNDS))
    waited = min(chain(waiting=True) for _ in range(CHAIN_ROUNDS))
    return max(waited - lazy, 0.0) / WAITS
