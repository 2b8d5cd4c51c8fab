"""How much of a model a GPU keeps in memory for good.

macOS may page out what is not wired, and a model that is read anew for every token
then crawls. Wiring more than the model takes has frozen Macs, and changing it while
work is under way has panicked them: so it is set once, before loading, to the model's
own size. On a CPU there is nothing to wire.
"""

import mlx.core as mx

from mlx_gptoss.errors import ConfigError, MemoryBudgetError
from mlx_gptoss.memory import Plan, parse_bytes
from mlx_gptoss.memory.plan import AUTO
from mlx_gptoss.model.device import on_gpu

OFF = "off"
HEADROOM = 1.1  # buffers are rounded up


def check_wired(wired: str) -> None:
    """Refuse what is neither auto, off nor a size."""
    if wired in (AUTO, OFF):
        return
    try:
        parse_bytes(wired)
    except MemoryBudgetError as error:
        raise ConfigError(
            f"wired `{wired}` is not known: write `auto`, `off` or a size like `12GB`"
        ) from error


def wired_bytes(wired: str, plan: Plan, most: int) -> int:
    """Choose the limit: never above `most`, what the device recommends."""
    if wired == OFF:
        return 0
    wanted = int(plan.total_bytes * HEADROOM) if wired == AUTO else parse_bytes(wired)
    return min(wanted, most)


def wire(wired: str, plan: Plan) -> int:
    """Set the limit on a GPU; returns the bytes that may be wired."""
    if not on_gpu():
        return 0
    most = int(mx.device_info().get("max_recommended_working_set_size", 0))
    limit = wired_bytes(wired, plan, most)
    mx.set_wired_limit(limit)
    return limit
