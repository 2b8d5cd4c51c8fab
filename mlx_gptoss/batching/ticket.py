"""One request of a batch: what was asked, how far it is, its end.

Knows no model and no other request; the engine moves it on.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from mlx_gptoss.decoding import Decoding
from mlx_gptoss.steps import Statistics, Step

QUEUED, PREFILL, DECODE, ENDED = "queued", "prefill", "decode", "ended"

OnStep = Callable[[Step], None]
OnEnd = Callable[[Statistics | None, BaseException | None], None]
OnProgress = Callable[[int, int], None]  # done, total


class Ticket:
    """What `Runtime.submit` gives; its public part may be used in any thread.

    The callbacks run in the owner thread and must not block.
    """

    def __init__(
        self,
        ids: Sequence[int],
        begin: Callable[["Ticket", Any], Decoding],
        on_step: OnStep,
        on_end: OnEnd,
        on_progress: OnProgress | None,
        position: Callable[["Ticket"], int],
        wake: Callable[[], None],
    ) -> None:
        self.ids = ids
        self.begin = begin
        self.on_step = on_step
        self.on_end = on_end
        self.on_progress = on_progress or (lambda done, total: None)
        self.asked = time.perf_counter()
        self.lease: Any = None
        self.decoding: Decoding | None = None
        self.cancelled = False
        self._stats: Statistics | None = None
        self._ended = False
        self._position = position
        self._wake = wake

    def cancel(self) -> None:
        """End it within one step; `on_end` is still called. Twice is once."""
        self.cancelled = True
        self._wake()

    @property
    def state(self) -> str:
        """`queued`, `prefill`, `decode` or `ended`."""
        if self._ended:
            return ENDED
        decoding = self.decoding
        if decoding is None:
            return QUEUED
        return PREFILL if decoding.reading else DECODE

    @property
    def position(self) -> int:
        """The place in the queue: 1 is next, 0 is not in it."""
        return self._position(self)

    @property
    def stats(self) -> Statistics | None:
        """What it took, so far or in all; None before it began."""
        decoding = self.decoding
        return decoding.stats if decoding else self._stats

    def end(self) -> None:
        """Keep the figures, let go of the model and its cache."""
        if self.decoding is not None:
            self._stats = self.decoding.stats
        self._ended = True
        self.decoding = self.lease = None
