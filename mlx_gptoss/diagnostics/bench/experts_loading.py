"""Time three ways to load a checkpoint: plain reads, ours, and stock mlx-lm."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.checkpoint.tensor_reads import CHUNK_BYTES
from mlx_gptoss.model.experts.reader import THREADS


def read_files(folder: Path) -> dict[str, float]:
    """Read all weight bytes by parallel preadv into fresh memory."""
    checkpoint = open_checkpoint(folder)
    sizes = {path: path.stat().st_size for path in checkpoint.files}
    started = time.perf_counter()
    memory = np.empty(max(sizes.values()), np.uint8)  # huge pages, as in our loader
    with ThreadPoolExecutor(THREADS) as pool:
        for path, size in sizes.items():
            descriptor = os.open(path, os.O_RDONLY)

            def read(start: int, d: int = descriptor, n: int = size) -> int:
                end = min(start + CHUNK_BYTES, n)
                return os.preadv(d, [memory[start:end].data], start)

            total = sum(pool.map(read, range(0, size, CHUNK_BYTES)))
            os.close(descriptor)
            assert total == size, f"{total=} {size=}"
    return {"seconds": time.perf_counter() - started, "bytes": sum(sizes.values())}


def load_own(folder: Path) -> dict[str, float]:
    """Load with our loader, all weights resident, floats as stored."""
    started = time.perf_counter()
    checkpoint = open_checkpoint(folder)
    model = load_model(checkpoint, dtype=mx.bfloat16)
    mx.eval(model.parameters())
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": sum(checkpoint.bytes_by_part.values())}


def load_stock(folder: Path) -> dict[str, float]:
    """Load with stock mlx-lm and evaluate all parameters."""
    from mlx_lm.utils import load_model as load

    started = time.perf_counter()
    model, _ = load(folder)
    mx.eval(model.parameters())
    return {"seconds": time.perf_counter() - started}
