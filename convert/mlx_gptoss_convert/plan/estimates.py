"""Estimate the memory and time of a plan before it is carried out.

Memory is an upper bound from the sizes of slices. Time is extrapolated from a small
sample of each codec on this machine, with an assumed disk rate. Writes nothing.
"""

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.memory import format_bytes
from mlx_gptoss_convert.plan.plan import ConversionPlan
from mlx_gptoss_convert.read.digests import WAITING
from mlx_gptoss_convert.read.source import SLICE_BYTES
from mlx_gptoss_convert.steps.codecs import encode_rows
from mlx_gptoss_convert.steps.encode import DecodeExperts, Encode
from mlx_gptoss_convert.steps.merged import bytes_in_files, merged_rows
from mlx_gptoss_convert.steps.quantize import Quantize, Requantize
from mlx_gptoss_convert.steps.step import TensorStep
from mlx_gptoss_convert.steps.workers import worker_count

MAX_MEMORY = 10**9  # default limit, above the program itself
# Slices alive at once: the queues of two hashing threads, and those in work.
SLICES = 2 * (WAITING + 2) + 4
ENCODED_COPIES = 4  # of one expert in float32: read, joined, transposed, packed
FLOAT32_BYTES = 4
DISK_RATE = 10**9  # assumed bytes per second, read and written together
PROBED_SHAPE = (256, 2880)  # rows of a published size
HASHED_BYTES = 2**22


@dataclass(frozen=True)
class Estimate:
    """Peak memory in bytes above the program itself, and time in seconds."""

    memory: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"about {format_seconds(self.seconds)} with a disk of "
            f"{format_bytes(DISK_RATE)}/s, at most {format_bytes(self.memory)} of "
            "memory"
        )


def estimate_plan(plan: ConversionPlan) -> Estimate:
    """Estimate a plan; measuring the codecs takes some tenths of a second."""
    return Estimate(peak_bytes(plan), plan_seconds(plan))


def check_memory(plan: ConversionPlan, max_memory: int = MAX_MEMORY) -> None:
    """Raise ConversionError for a plan that may need more than `max_memory`."""
    needed = peak_bytes(plan)
    if needed > max_memory:
        raise ConversionError(
            f"this conversion may take {format_bytes(needed)} of memory, the limit is "
            f"{format_bytes(max_memory)}: allow more with `--max-memory`"
        )


def peak_bytes(plan: ConversionPlan) -> int:
    """Return an upper bound of the memory of the largest step."""
    return SLICES * SLICE_BYTES + max(map(step_bytes, plan.steps), default=0)


def step_bytes(step: TensorStep) -> int:
    """Return the bytes of one expert that is encoded or decoded, and of an update."""
    merged = [x for stored in step.sources if (x := merged_rows(stored))]
    updates = max((x.update_bytes for x in merged), default=0)
    if not isinstance(step, Encode | DecodeExperts):
        return updates
    if isinstance(step, Encode):
        values = values_of(step) // step.sources[0].shape[0]
    else:
        values = sum(math.prod(x.shape[1:]) for x in step.outputs)
    return ENCODED_COPIES * FLOAT32_BYTES * values + updates


def values_of(step: Encode | Quantize | Requantize) -> int:
    """Return the number of weights that a step packs."""
    tensors = [t for t in step.outputs if t.name.endswith(("weight", "_blocks"))]
    return sum(tensor.nbytes for tensor in tensors) * 8 // step.setting.bits


def plan_seconds(plan: ConversionPlan) -> float:
    """Estimate the time: codecs in their threads, plus hashing or the disk."""
    packed: dict[Quantization, int] = defaultdict(int)
    for step in plan.steps:
        if isinstance(step, Encode | Quantize | Requantize):
            packed[step.setting] += values_of(step)
    codecs = sum(
        count * codec_seconds(setting) / math.prod(PROBED_SHAPE)
        for setting, count in packed.items()
    )
    read = sum(bytes_in_files(x) for step in plan.steps for x in step.sources)
    hashing = read * hash_seconds() / HASHED_BYTES
    return codecs / worker_count() + max(hashing, (read + plan.nbytes) / DISK_RATE)


def codec_seconds(setting: Quantization) -> float:
    rows = np.random.default_rng(0).standard_normal(PROBED_SHAPE, np.float32)
    columns = PROBED_SHAPE[1] - PROBED_SHAPE[1] % setting.group_size
    rows = np.ascontiguousarray(rows[:, :columns])
    return timed(lambda: encode_rows(rows, setting))


def hash_seconds() -> float:
    sample = bytes(HASHED_BYTES)
    return timed(lambda: hashlib.sha256(sample))


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of a second run; the first one warms up."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def format_seconds(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
