"""Measure the disk with the reader that streams experts, past the system's page cache.

Pieces are the size of an expert, in a fresh file whose pages are not cached: the cache
would make any disk look like memory.
"""

import fcntl
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_gptoss.errors import GptOssError
from mlx_gptoss.files import remove_stale, scratch, storage_errors
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.model.experts.reader import ExpertReader, ReadRange

DISK_BYTES = 10**9
PIECE_BYTES = 4 * 2**20  # one projection of a published model's expert
PAGE_BYTES = 4096
IN_FLIGHT = 16  # pieces; the four experts of a token have about as many ranges
SMALL_READS = 15  # of so many pages at once
WRITE_BYTES = 64 * 2**20
F_NOCACHE = 48  # macOS; not in Python's fcntl
F_FULLFSYNC = 51


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes per second of large reads, and seconds of the least read."""

    rate: float
    latency: float


def measure_disk(folder: Path, size: int = DISK_BYTES) -> DiskSpeed:
    """Read an uncached file in random order.

    Raises GptOssError if the disk has no room for twice as much.
    """
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
        latency = time_small_reads(path, size)
        return DiskSpeed(time_reads(path, size), latency)


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


def time_small_reads(path: Path, size: int) -> float:
    """Read a page at some places of a file, as many at once as a token's experts have.

    Returns seconds: the median, since single reads of a disk may take any time.
    """
    pages = random.Random(1).sample(
        range(max(1, size // PAGE_BYTES)), _page_count(size)
    )
    memory = [np.empty(min(PAGE_BYTES, size), np.uint8) for _ in range(IN_FLIGHT)]
    reader, seconds = ExpertReader([path]), []
    try:
        for first in range(0, len(pages), IN_FLIGHT):
            ranges = [
                ReadRange("the probe", path, page * PAGE_BYTES, out.data)
                for page, out in zip(pages[first:], memory, strict=False)
            ]
            started = time.perf_counter()
            reader.start(ranges).wait()
            seconds.append(time.perf_counter() - started)
    finally:
        reader.close()
    return statistics.median(seconds)


def _page_count(size: int) -> int:
    return min(SMALL_READS * IN_FLIGHT, max(1, size // PAGE_BYTES))
