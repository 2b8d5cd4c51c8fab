"""Admission: which sequence may start, and which may wait in the queue.

The queue limit counts only requests that have to wait: a request that could start at
once is never refused, nor are further answers of a group that was accepted. Knows
sequences and sizes; nothing of models.
"""

from collections.abc import Callable, Iterable

from mlx_gptoss.engine.scheduler.cache_memory import any_scored, slot_lengths
from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.options import BatchOptions
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.errors import BusyError

ROOM_TO_GROW = 256  # tokens that a sequence must have room for when it starts


class Admission:
    """Decides by the number of running sequences, memory and the queue. Thread-safe."""

    def __init__(self, options: BatchOptions, kv_budget: KVBudget) -> None:
        self._options = options
        self._kv_budget = kv_budget

    def has_place(self, running: list[Sequence]) -> bool:
        """Whether another sequence may be computed at once with these."""
        return len(running) < self._options.max_running

    def has_memory(self, holding: Iterable[Sequence], sequence: Sequence) -> bool:
        """Whether a sequence and those that hold caches can all grow a little."""
        together = (*holding, sequence)
        lengths = slot_lengths(together, ROOM_TO_GROW)
        scoring = any_scored(together)
        return len(lengths) == 1 or self._kv_budget.fits(lengths, scoring=scoring)

    def refusal(
        self,
        sequence: Sequence,
        running: list[Sequence],
        queued: list[Sequence],
        retry_after: Callable[[], float],
    ) -> BusyError | None:
        """Return the error that refuses a sequence; None if it may wait or start.

        Ended and cancelled sequences count as gone: they are about to make room.
        """
        if len(queued) < self._options.max_waiting:
            return None
        served = [one for one in running if not one.ended and not one.cancelled]
        waiting = [one for one in queued if one not in served and not one.cancelled]
        waiting.append(sequence)
        while (
            waiting and self.has_place(served) and self.has_memory(served, waiting[0])
        ):
            served.append(waiting.pop(0))
        accepted = {one.group for one in (*served, *waiting[:-1])}
        if not waiting or sequence.group in accepted:
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
