"""Apple chips as data: memory bandwidth, typical SSD speed, arithmetic, memory sizes.

Bandwidth, memory sizes and GPU cores are Apple's figures. SSD speed was measured by
owners with large parallel reads and varies with the disk size; `mlx-gptoss probe`
measures this machine's. Arithmetic is single precision, estimated from the cores; chips
with matrix units prefill faster.
"""

import re
from dataclasses import dataclass

from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.memory.budget import Budget
from mlx_gptoss.memory.costs import Costs
from mlx_gptoss.memory.units import format_machine_memory

GIGA, GIB = 10**9, 2**30
TERA = 10**12
# Share a Metal GPU may wire: `max_recommended_working_set_size` as owners report it.
WORKING_SET_SHARES = ((8, 0.66), (16, 0.70))  # up to this many GiB, share
WORKING_SET_SHARE = 0.75
# One GPU synchronization per streamed layer: others measured 0.25 to 2 ms.
SYNC_SECONDS = 0.6e-3
# A layer of a decode step is about 20 operations of 3 microseconds on a GPU.
LAYER_SECONDS = 60e-6


@dataclass(frozen=True)
class Range:
    """An estimate with its bounds."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Machine:
    """A machine's rates: bytes and operations per second, seconds per synchronization.

    `expert_rate` is the rate, in bytes per second, at which experts are multiplied: on
    a CPU multiplying MXFP4 takes longer than reading it. `layer_seconds` is what giving
    a GPU one layer takes, `read_seconds` the latency of a read from the disk.
    `doubt` is the factor by which a guess of everything may be wrong. `costs` are those
    that a probe measured.
    """

    name: str
    bandwidth: float
    ssd: float
    flops: float = 4 * TERA
    sync_seconds: float = SYNC_SECONDS
    expert_rate: float | None = None
    layer_seconds: float = LAYER_SECONDS
    read_seconds: float = 0.0
    doubt: float = 1.0
    measured: bool = False  # by `mlx-gptoss probe` on this machine
    source: str = "the table of chips"
    costs: Costs | None = None


@dataclass(frozen=True)
class Chip:
    """One chip; chips of the same name differ in memory size."""

    name: str
    bandwidth: float  # GB/s
    ssd: float  # GB/s
    flops: float  # TFLOP/s
    memory: tuple[int, ...]  # GiB on sale

    def machine(self) -> Machine:
        return Machine(
            self.name, self.bandwidth * GIGA, self.ssd * GIGA, self.flops * TERA
        )


CHIPS = (
    Chip("M1", 68, 2.8, 2.6, (8, 16)),
    Chip("M1 Pro", 200, 4.4, 5.2, (16, 32)),
    Chip("M1 Max", 400, 4.4, 10.4, (32, 64)),
    Chip("M1 Ultra", 800, 4.4, 20.8, (64, 128)),
    Chip("M2", 100, 1.5, 3.6, (8, 16, 24)),
    Chip("M2 Pro", 200, 4.4, 6.8, (16, 32)),
    Chip("M2 Max", 400, 5.0, 13.6, (32, 64, 96)),
    Chip("M2 Ultra", 800, 5.0, 27.2, (64, 128, 192)),
    Chip("M3", 100, 3.0, 4.1, (8, 16, 24)),
    Chip("M3 Pro", 150, 5.0, 7.4, (18, 36)),
    Chip("M3 Max", 300, 5.5, 12.3, (36, 96)),
    Chip("M3 Max", 400, 5.5, 16.4, (48, 64, 128)),
    Chip("M3 Ultra", 819, 6.0, 28.7, (96, 256, 512)),
    Chip("M4", 120, 2.0, 4.3, (16, 24, 32)),
    Chip("M4 Pro", 273, 5.0, 8.5, (24, 48, 64)),
    Chip("M4 Max", 410, 7.0, 13.6, (36,)),
    Chip("M4 Max", 546, 7.0, 17.0, (48, 64, 128)),
    Chip("M5", 153, 6.3, 4.4, (16, 24, 32)),
    Chip("M5 Pro", 307, 7.0, 8.8, (24, 48, 64)),
    Chip("M5 Max", 460, 12.6, 14.1, (36,)),
    Chip("M5 Max", 614, 12.6, 17.6, (48, 64, 128)),
)
DEVICE = re.compile(
    r"\s*(?:apple\s+)?(m\d+)(?:\s*(pro|max|ultra))?(?:[\s,]+(\d+)\s*gi?b?)?\s*", re.I
)
UNKNOWN_SOURCE = "nothing was measured and the chip is in no table"
UNKNOWN_MACHINE = Machine(
    "this machine", 100 * GIGA, 3 * GIGA, doubt=4.0, source=UNKNOWN_SOURCE
)
# MLX multiplies on one or two threads of a CPU; what it reaches depends on the BLAS.
FLOPS_OF_BLAS, FLOPS_WITHOUT_BLAS = 35 * GIGA, 5 * GIGA


def guess_cpu(*, optimized_blas: bool) -> Machine:
    """Guess the rates of a CPU, within a factor of about 4."""
    return Machine(
        "this machine",
        8 * GIGA,
        1 * GIGA,
        FLOPS_OF_BLAS if optimized_blas else FLOPS_WITHOUT_BLAS,
        expert_rate=1 * GIGA,
        layer_seconds=0.6e-3,
        doubt=4.0,
        source=UNKNOWN_SOURCE,
    )


def find_chip(device: str, gib: int | None = None) -> Chip | None:
    """Find a chip by MLX's device name, "Apple M4 Max", and its memory."""
    found = DEVICE.fullmatch(device)
    if found is None:
        return None
    name = " ".join(filter(None, (found[1].upper(), (found[2] or "").capitalize())))
    named = [chip for chip in CHIPS if chip.name == name]
    fitting = [chip for chip in named if gib in chip.memory]
    return next(iter(fitting or named[-1:]), None)


def describe_device(device: str) -> tuple[Machine, Budget]:
    """Parse "M4 Max 36GB" into the machine and the budget of its GPU.

    Raises MemoryBudgetError for an unknown chip or memory size.
    """
    found = DEVICE.fullmatch(device)
    gib = int(found[3]) if found and found[3] else None
    chip = find_chip(device, gib)
    if chip is None:
        names = ", ".join(dict.fromkeys(chip.name for chip in CHIPS))
        raise MemoryBudgetError(
            f"device `{device}` is not known: write a chip and its memory, as in "
            f"`M4 Max 36GB`; there are {names}"
        )
    sizes = sorted({n for c in CHIPS if c.name == chip.name for n in c.memory})
    if gib not in sizes:
        listing = ", ".join(f"{n}GB" for n in sizes)
        raise MemoryBudgetError(
            f"device `{device}` needs its memory: the {chip.name} comes with {listing}"
        )
    budget = Budget(
        estimate_working_set(gib * GIB),
        gib * GIB,
        f"what macOS gives the GPU of {format_machine_memory(gib * GIB)}",
        metal=True,
    )
    return chip.machine(), budget


def estimate_working_set(memory: int) -> int:
    """Estimate the recommended working set of a Mac with `memory` bytes."""
    share = next(
        (share for most, share in WORKING_SET_SHARES if memory <= most * GIB),
        WORKING_SET_SHARE,
    )
    return int(memory * share)
