"""Set the limit of memory that a GPU keeps wired.

macOS may page out memory that is not wired, which makes every token slow. Wiring more
than the model takes has frozen Macs, and changing the limit while the GPU works has
panicked them, so it is set once, before loading, to the model's size. A CPU has nothing
to wire.
"""

import mlx.core as mx

from mlx_gptoss.errors import ConfigError, MemoryBudgetError
from mlx_gptoss.memory import Plan, parse_bytes
from mlx_gptoss.memory.plan import AUTO
from mlx_gptoss.model.device import on_gpu

OFF = "off"
HEADROOM = 1.1  # buffers are rounded up


def check_wired(wired: str) -> None:
    """Raise ConfigError unless it is `auto`, `off` or a size."""
    if wired in (AUTO, OFF):
        return
    try:
        parse_bytes(wired)
    except MemoryBudgetError as error:
        raise ConfigError(
            f"wired `{wired}` is not known: write `auto`, `off` or a size like `12GB`"
        ) from error


def wired_bytes(wired: str, plan: Plan, most: int) -> int:
    """Choose the limit, at most `most`, the device's recommendation."""
    if wired == OFF:
        return 0
    wanted = int(plan.total_bytes * HEADROOM) if wired == AUTO else parse_bytes(wired)
    return min(wanted, most)


def wire(wired: str, plan: Plan) -> int:
    """Set the limit on a GPU; return it in bytes."""
    if not on_gpu():
        return 0
    most = int(mx.device_info().get("max_recommended_working_set_size", 0))
    limit = wired_bytes(wired, plan, most)
    mx.set_wired_limit(limit)
    return limit
