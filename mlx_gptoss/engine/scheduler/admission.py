"""Admission: which request may start, and which may wait in the queue.

The queue limit counts only requests that have to wait: a request that could start at
once is never refused, nor are further answers of a group that was accepted. Knows
requests and sizes; nothing of models.
"""

from collections.abc import Callable

from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.options import BatchOptions
from mlx_gptoss.engine.scheduler.request import ENDED, Request
from mlx_gptoss.errors import BusyError
from mlx_gptoss.memory.sizes import CACHE_STEP


class Admission:
    """Decides by the number of running requests, memory and the queue. Thread-safe."""

    def __init__(self, options: BatchOptions, kv_budget: KVBudget) -> None:
        self._options = options
        self._kv_budget = kv_budget

    def admits(self, running: list[Request], request: Request) -> bool:
        """Whether a request may start: a free place, and memory to grow a little."""
        if len(running) >= self._options.max_running:
            return False
        lengths = [one.length + CACHE_STEP for one in (*running, request)]
        return not running or self._kv_budget.fits(lengths)

    def refusal(
        self,
        request: Request,
        running: list[Request],
        queued: list[Request],
        retry_after: Callable[[], float],
    ) -> BusyError | None:
        """Return the error that refuses a request; None if it may wait or start.

        Ended and cancelled requests count as gone: they are about to make room.
        """
        if len(queued) < self._options.max_waiting:
            return None
        served = [one for one in running if one.state != ENDED and not one.cancelled]
        waiting = [one for one in queued if one not in served and not one.cancelled]
        waiting.append(request)
        while waiting and self.admits(served, waiting[0]):
            served.append(waiting.pop(0))
        accepted = {one.group for one in (*served, *waiting[:-1])}
        if not waiting or request.group in accepted:
            return None
        count = len({one.group for one in waiting} - {one.group for one in served})
        if count <= self._options.max_waiting:
            return None
        seconds = retry_after()
        return BusyError(
            f"as many requests run as fit, and {count - 1} wait already: try again in "
            f"{seconds:.0f} s",
            seconds,
        )
