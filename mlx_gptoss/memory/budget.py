"""The memory a model may use, according to the device, the system or the container."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_gptoss.memory.units import UNITS, format_machine_memory, parse_bytes

REQUESTED_MEMORY = "the memory asked for"  # the source of a budget given by the user
CGROUP_LIMITS = (
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
)


@dataclass(frozen=True)
class Budget:
    """Bytes a model may use, bytes in total, and the source of the limit."""

    bytes: int
    total: int
    source: str
    metal: bool = False


def device_budget(memory: str | int | None = None, *, root: Path = Path("/")) -> Budget:
    """Return `memory`, at most the device's total, or by default the device's limit.

    That is the recommended working set of a Metal GPU, elsewhere the free memory of the
    system (`root`/proc/meminfo) or its container.
    """
    return limit_budget(_metal_budget() or _system_budget(root), memory)


def limit_budget(budget: Budget, memory: str | int | None) -> Budget:
    """Return a budget of `memory` bytes, at most all of the device's."""
    if memory is None:
        return budget
    wanted = parse_bytes(memory)
    if wanted >= budget.total:
        source = f"all memory there is, {format_machine_memory(budget.total)}"
        return replace(budget, bytes=budget.total, source=source)
    return replace(budget, bytes=wanted, source=REQUESTED_MEMORY)


def _metal_budget() -> Budget | None:
    import mlx.core as mx  # noqa: PLC0415 - sizes and texts are needed without MLX

    if not mx.metal.is_available():
        return None
    facts = mx.device_info()
    working_set = int(facts.get("max_recommended_working_set_size", 0))
    total = int(facts.get("memory_size", 0)) or _physical_memory()
    if not working_set:
        source = f"the memory of this Mac, {format_machine_memory(total)}"
        return Budget(total, total, source, True)
    return Budget(working_set, total, "the GPU's recommended working set", True)


def _system_budget(root: Path) -> Budget:
    meminfo = _meminfo(root / "proc/meminfo")
    total = meminfo.get("MemTotal", 0) or _physical_memory()
    free = meminfo.get("MemAvailable", total)
    limits = [_cgroup_limit(root / path) for path in CGROUP_LIMITS]
    limit = min((found for found in limits if found), default=total)
    if limit < free:
        return Budget(limit, min(limit, total), "the memory limit of this container")
    return Budget(free, total, "the memory that is free")


def _meminfo(path: Path) -> dict[str, int]:
    if not path.exists():  # not Linux
        return {}
    lines = (line.split(":") for line in path.read_text().splitlines() if ":" in line)
    return {
        name: int(value.split()[0]) * UNITS["KIB"] for name, value in lines if value
    }


def _cgroup_limit(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else "max"
    return int(text) if text.isdigit() else None


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
