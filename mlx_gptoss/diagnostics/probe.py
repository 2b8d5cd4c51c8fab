"""Measure the figures that plans depend on: disk, memory, device synchronization.

The disk is measured with the reader that streams experts, in pieces the size of an
expert, on a fresh file whose pages are not cached: the system's page cache would make
any disk look like memory.
"""

import fcntl
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss.diagnostics.progress import ReportProgress
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.files import remove_stale, scratch, storage_errors, user_home
from mlx_gptoss.format.config import MXFP4
from mlx_gptoss.format.layout import PACKED, Structure
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.memory.published_models import find_published_model
from mlx_gptoss.memory.saved_probe import Probe
from mlx_gptoss.memory.sizes import record_bytes
from mlx_gptoss.model.device import choose_dtype
from mlx_gptoss.model.experts.reader import ExpertReader, ReadRange
from mlx_gptoss.model.experts.resident import Experts

DISK_BYTES = 10**9
PIECE_BYTES = 4 * 2**20  # one projection of a published model's expert
IN_FLIGHT = 16  # pieces; the four experts of a token have about as many ranges
WRITE_BYTES = 64 * 2**20
F_NOCACHE = 48  # macOS; not in Python's fcntl
F_FULLFSYNC = 51

MATRIX_ROWS, MATRIX_COLUMNS = 16384, 4096  # larger than any cache
VECTOR_ROUNDS = 8
WAITS = 64  # layers of the chain; about two tokens of the 120b
CHAIN_SIZE = 512
ROUNDS = 3
PROBED_EXPERTS, PROBED_LAYERS = 8, 12
E8M0_ONE = 127  # a scale of 1; 0 would make a CPU multiply denormal numbers


def probe(
    folder: Path | None = None, *, size: int = DISK_BYTES, progress: ReportProgress
) -> Probe:
    """Measure this machine and the disk that holds `folder`.

    Temporarily uses `size` bytes of the disk. Raises GptOssError if it has no room.
    """
    progress(f"writing {format_bytes(size)} and reading it past the cache")
    ssd = measure_disk(folder or user_home(), size)
    progress("reading memory on the device")
    bandwidth = measure_memory()
    progress("waiting for the device, layer by layer")
    sync = measure_sync()
    progress("sending tokens through experts")
    experts = measure_experts()
    name = str(mx.device_info().get("device_name", ""))
    return Probe(name, ssd, bandwidth, sync, experts)


def measure_disk(folder: Path, size: int = DISK_BYTES) -> float:
    """Read an uncached file in random order: bytes per second."""
    remove_stale(folder)
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < 2 * size:
        raise GptOssError(
            f"`{folder}` has no room to measure its disk with {format_bytes(size)}: "
            "name another folder with `--folder`, or a smaller `--size`"
        )
    with scratch(folder) as inside:
        path = inside / "probe"
        with storage_errors(folder):
            write_uncached(path, size)
        return time_reads(path, size)


def write_uncached(path: Path, size: int) -> None:
    """Write random bytes, leaving none in the system's page cache."""
    block = np.random.default_rng(0).bytes(min(WRITE_BYTES, size))
    with path.open("wb", buffering=0) as file:
        if sys.platform == "darwin":
            fcntl.fcntl(file, F_NOCACHE, 1)
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        os.fsync(file.fileno())
        if sys.platform == "darwin":
            fcntl.fcntl(file, F_FULLFSYNC)
        else:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_reads(path: Path, size: int) -> float:
    """Read every piece of a file once, in random order: bytes per second."""
    count = max(1, size // PIECE_BYTES)
    piece = min(PIECE_BYTES, size)
    order = random.Random(0).sample(range(count), count)
    memory = [np.empty(piece, np.uint8) for _ in range(IN_FLIGHT)]
    reader = ExpertReader([path])
    try:
        started = time.perf_counter()
        for first in range(0, count, IN_FLIGHT):
            batch = order[first : first + IN_FLIGHT]
            ranges = [
                ReadRange("the probe", path, n * piece, out.data)
                for n, out in zip(batch, memory, strict=False)
            ]
            reader.start(ranges).wait()
        return count * piece / (time.perf_counter() - started)
    finally:
        reader.close()


def measure_memory() -> float:
    """Multiply a matrix larger than any cache by a vector: bytes per second."""
    matrix = mx.ones((MATRIX_ROWS, MATRIX_COLUMNS), mx.float32)
    vector = mx.ones((MATRIX_COLUMNS, 1), mx.float32)
    mx.eval(matrix, vector)
    best = float("inf")
    for _ in range(VECTOR_ROUNDS):
        started = time.perf_counter()
        mx.eval(matrix @ vector)
        best = min(best, time.perf_counter() - started)
    return matrix.nbytes / best


def measure_experts() -> float:
    """Run single tokens through experts of the published size: bytes per second.

    Layer after layer uses four of a few experts, as in a decode step. The weights are
    zeros with scales of 1, which takes as long as any.
    """
    shape = find_published_model("gpt-oss-20b")
    assert shape is not None
    config = replace(shape.config, num_local_experts=PROBED_EXPERTS)
    k, dtype = config.num_experts_per_tok, choose_dtype(None)
    packing = {"experts.gate_up_proj": MXFP4, "experts.down_proj": MXFP4}
    experts = Experts(config, Structure(packing, PACKED), "experts")
    experts.set_dtype(dtype)
    experts.eval()
    for projection in experts.projections.values():
        projection.scales = mx.full(projection.scales.shape, E8M0_ONE, mx.uint8)
    x, expert_weights = (
        mx.zeros((1, config.hidden_size), dtype),
        mx.full((1, k), 1 / k, dtype),
    )
    expert_indices = mx.arange(PROBED_EXPERTS, dtype=mx.uint32).reshape(-1, 1, k)
    mx.eval(experts.parameters(), x, expert_weights, expert_indices)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        y = x
        for layer in range(PROBED_LAYERS):
            y = experts(y, expert_indices[layer % len(expert_indices)], expert_weights)
        mx.eval(y)
        best = min(best, time.perf_counter() - started)
    return PROBED_LAYERS * k * record_bytes(config) / best


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
    lazy = min(chain(waiting=False) for _ in range(ROUNDS))
    waited = min(chain(waiting=True) for _ in range(ROUNDS))
    return max(waited - lazy, 0.0) / WAITS
