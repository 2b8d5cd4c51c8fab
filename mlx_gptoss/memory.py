"""What fits: the device's budget, an estimate made before loading, advice.

Knows sizes only: it never opens a file and never allocates an array. Sizes in
text are GB = 10^9 bytes; in the API they are bytes.
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.config import ModelConfig
from mlx_gptoss.errors import MemoryBudgetError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
UNITS |= {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "": 1}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

MXFP4_BITS = 4.25  # per expert weight: 4 bits and one scale byte for 32 values
# Bits per weight of attention, embedding and lm_head; None stays a float. Each affine
# group has a scale and a bias beside it, both floats.
RECIPE_BITS = {"lossless": None, "q8": 8, "q6": 6, "q4": 4}
GROUP_SIZE = 64
OFFERED_RECIPES = ("lossless", "q8", "q4")
FLOAT_BYTES = 2  # bfloat16: floats on disk, and in memory on a GPU

DEFAULT_CONTEXT = 8192  # tokens of KV cache counted when none is asked for
PREFILL_CHUNK = 512  # tokens whose intermediate values are alive at once
CACHE_STEP = 256  # full caches grow by so many tokens
PROCESS_BYTES = 10**8  # Python, kernels, small buffers: an allowance
# What macOS must keep when `iogpu.wired_limit_mb` is raised.
SYSTEM_RESERVE = 3 * 2**30
CGROUP_LIMITS = (
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
)


@dataclass(frozen=True)
class Budget:
    """How many bytes a model may use, of how many there are, and who says so."""

    bytes: int
    total: int
    source: str
    metal: bool = False


@dataclass(frozen=True)
class Plan:
    """Where a model's bytes will lie, decided before the first weight is read."""

    mode: str
    bytes_by_part: Mapping[str, int]
    kv_bytes: int
    scratch_bytes: int
    context: int
    budget: Budget
    float_bytes: int = FLOAT_BYTES

    @property
    def weight_bytes(self) -> int:
        return sum(self.bytes_by_part.values())

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.scratch_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.budget.bytes


def parse_bytes(size: str | int) -> int:
    """Read "16GB", "12.5 GiB", "900MB" or a number of bytes."""
    if isinstance(size, int):
        return _positive(size, size)
    match = SIZE.fullmatch(size)
    if match is None or match[2].upper() not in UNITS:
        raise MemoryBudgetError(
            f"`{size}` is not a size: write `16GB`, `12.5GB` or a number of bytes"
        )
    return _positive(int(float(match[1]) * UNITS[match[2].upper()]), size)


def _positive(count: int, size: str | int) -> int:
    if count <= 0:
        raise MemoryBudgetError(f"memory `{size}` leaves no room for a model")
    return count


def format_bytes(count: int) -> str:
    """Write bytes as people say them: `12.1 GB`, `847 MB`, `3 kB`."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    if count >= 10**6:
        return (
            f"{count / 10**6:.0f} MB" if count >= 10**7 else f"{count / 10**6:.1f} MB"
        )
    return f"{count / 10**3:.0f} kB" if count >= 10**3 else f"{count} bytes"


def device_budget(memory: str | int | None = None, *, root: Path = Path("/")) -> Budget:
    """Ask the device how much a model may use; `memory` says it, up to all there is.

    The device's answer is the recommended working set of a Metal GPU, elsewhere what
    the system (`root`/proc/meminfo) or its container still has free.
    """
    device = _metal_budget() or _system_budget(root)
    if memory is None:
        return device
    wanted = parse_bytes(memory)
    if wanted >= device.total:
        return Budget(device.total, device.total, "all memory there is", device.metal)
    return Budget(wanted, device.total, "the memory asked for", device.metal)


def _metal_budget() -> Budget | None:
    import mlx.core as mx  # noqa: PLC0415 - sizes and texts are needed without MLX

    if not mx.metal.is_available():
        return None
    facts = mx.device_info()
    working_set = int(facts.get("max_recommended_working_set_size", 0))
    total = int(facts.get("memory_size", 0)) or _physical_memory()
    if not working_set:
        return Budget(total, total, "the memory of this Mac", True)
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


def recipe_bytes(
    config: ModelConfig, recipe: str, *, float_bytes: int = FLOAT_BYTES
) -> int:
    """Bytes of all tensors of this architecture under a conversion recipe.

    On disk floats take 2 bytes; in memory what the compute dtype takes.
    """
    M, F = config.hidden_size, config.intermediate_size
    D, V = config.head_dim, config.vocab_size
    E, layers = config.num_local_experts, config.num_hidden_layers
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    qkv_rows = (heads + 2 * kv_heads) * D
    experts = layers * E * 3 * M * F
    quantized = layers * (qkv_rows * M + M * heads * D) + 2 * V * M
    router = E * M + E
    biases = qkv_rows + M + E * (2 * F + M)
    kept = layers * (router + biases + 2 * M + heads) + M
    affine_bits, float_bits = RECIPE_BITS[recipe], 8 * float_bytes
    width = float_bits if affine_bits is None else affine_bits
    if affine_bits is not None:
        width += 2 * float_bits / GROUP_SIZE
    bits = experts * MXFP4_BITS + quantized * width
    return round(bits / 8) + kept * float_bytes


def kv_bytes(config: ModelConfig, context: int, *, float_bytes: int) -> int:
    """Bytes of the KV caches at `context` tokens; sliding layers keep a window."""
    row = 2 * config.num_key_value_heads * config.head_dim * float_bytes
    full_rows = -(-context // CACHE_STEP) * CACHE_STEP
    window_rows = min(context, config.sliding_window)
    rows = [
        full_rows if kind == "full_attention" else window_rows
        for kind in config.layer_types
    ]
    return row * sum(rows)


def scratch_bytes(
    config: ModelConfig, context: int, *, float_bytes: int, metal: bool
) -> int:
    """Bytes alive beside weights and caches while a chunk is prefilled."""
    chunk = min(PREFILL_CHUNK, context)
    M, F = config.hidden_size, config.intermediate_size
    pairs = chunk * config.num_experts_per_tok
    experts = pairs * (2 * M + 3 * F) * float_bytes
    # Metal's attention is fused; on CPU all scores of a chunk exist at once, twice.
    scores = 0 if metal else 2 * config.num_attention_heads * chunk * context * 4
    return PROCESS_BYTES + max(experts, scores)


def estimate(
    config: ModelConfig,
    bytes_by_part: Mapping[str, int],
    *,
    budget: Budget,
    context: int | None = None,
    float_bytes: int = FLOAT_BYTES,
) -> Plan:
    """Plan a resident model from sizes alone: `bytes_by_part` as they lie in memory."""
    longest = config.max_position_embeddings
    tokens = min(context or DEFAULT_CONTEXT, longest)
    scratch = scratch_bytes(config, tokens, float_bytes=float_bytes, metal=budget.metal)
    kv = kv_bytes(config, tokens, float_bytes=float_bytes)
    parts = dict(bytes_by_part)
    return Plan("resident", parts, kv, scratch, tokens, budget, float_bytes)


def require_fit(plan: Plan, config: ModelConfig, model: str) -> None:
    """Raise MemoryBudgetError, saying what would fit and how to get it."""
    if plan.fits:
        return
    budget = plan.budget
    raise MemoryBudgetError(
        f"`{model}` needs {format_bytes(plan.total_bytes)} "
        f"({format_bytes(plan.weight_bytes)} of weights, "
        f"{format_bytes(plan.kv_bytes)} for {plan.context:,} tokens, "
        f"{format_bytes(plan.scratch_bytes)} to work in), but there are "
        f"{format_bytes(budget.bytes)} ({budget.source}): "
        f"{_advice(plan, config, model)}"
    )


def _advice(plan: Plan, config: ModelConfig, model: str) -> str:
    around = plan.kv_bytes + plan.scratch_bytes
    sizes = {
        recipe: recipe_bytes(config, recipe, float_bytes=plan.float_bytes)
        for recipe in OFFERED_RECIPES
    }
    smaller = {r: size for r, size in sizes.items() if size < plan.weight_bytes}
    listing = ", ".join(f"{r} {format_bytes(size)}" for r, size in smaller.items())
    budget = plan.budget
    for recipe, size in smaller.items():
        if size + around <= budget.bytes:
            return f"{_convert(model, recipe)} makes one that fits ({listing})"
    raised = budget.total - SYSTEM_RESERVE
    for recipe, size in smaller.items():
        if budget.metal and size + around <= raised:
            limit = -(-(size + around) // 2**20)
            return (
                f"{_convert(model, recipe)} fits ({listing}) once the GPU may use "
                f"more: `sudo sysctl iogpu.wired_limit_mb={limit}`"
            )
    least = min(smaller.values(), default=plan.weight_bytes) + around
    known = f" ({listing})" if listing else ""
    return (
        f"no recipe fits{known}; it takes {format_bytes(least)}, "
        "so use a smaller model, a shorter `--context` or more memory (reading experts "
        "from disk as they are needed is not built yet)"
    )


def _convert(model: str, recipe: str) -> str:
    target = f"{model.rstrip('/').rsplit('/', 1)[-1]}-{recipe}"
    words = ["mlx-gptoss", "convert", model, target, "--recipe", recipe]
    return f"`{shlex.join(words)}`"
