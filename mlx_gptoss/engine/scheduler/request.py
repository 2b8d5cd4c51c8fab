"""One request of a batch: what was asked, how far it is, its end.

Knows no model and no other request; the engine moves it on.
"""

import time
from collections.abc import Callable

from mlx_gptoss.engine.interfaces import OnProgress, TokenIds
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_cache import CacheLease
from mlx_gptoss.engine.prompt_cache.tree import token_array
from mlx_gptoss.engine.sequence import Sequence

QUEUED, PREFILL, DECODE, ENDED = "queued", "prefill", "decode", "ended"

OnStep = Callable[[Step], None]
OnEnd = Callable[[Statistics | None, BaseException | None], None]


class Request:
    """What `Runtime.submit` gives: `cancel`, `state`, `position`, `stats`.

    These may be used in any thread. The rest is the engine's, in the owner thread,
    where the callbacks are called too: they must not block. Requests of one `request`
    are taken or refused together.
    """

    def __init__(
        self,
        ids: TokenIds,
        make_sequence: Callable[["Request", CacheLease], Sequence],
        *,
        on_step: OnStep,
        on_end: OnEnd,
        on_progress: OnProgress | None = None,
        shared: bool = False,
        group: object = None,
    ) -> None:
        self.ids = ids
        self.token_array = token_array(ids)
        self.make_sequence = make_sequence
        self.on_step = on_step
        self.on_end = on_end
        self.on_progress = on_progress or (lambda done, total: None)
        self.shared = shared
        self.group = self if group is None else group
        self.arrival_time = time.perf_counter()
        self.start_time = 0.0
        self.lease: CacheLease | None = None
        self.sequence: Sequence | None = None
        self.cancelled = False
        self.awaited_mask: object = (
            None  # what it waits for, and the others do not any more
        )
        # The engine puts its own here when it takes the request.
        self.find_position: Callable[[Request], int] = lambda request: 0
        self.wake_scheduler: Callable[[], None] = lambda: None
        self._stats: Statistics | None = None
        self._ended = False

    def cancel(self) -> None:
        """End it within one step; `on_end` is still called. Twice is once."""
        self.cancelled = True
        self.wake_scheduler()

    @property
    def state(self) -> str:
        """`queued` (before it began, or paused), `prefill`, `decode` or `ended`."""
        if self._ended:
            return ENDED
        sequence = self.sequence
        if sequence is None or self.lease is None:
            return QUEUED
        return PREFILL if sequence.prefilling else DECODE

    @property
    def position(self) -> int:
        """The place in the queue: 1 is next, 0 does not wait."""
        return self.find_position(self)

    @property
    def stats(self) -> Statistics | None:
        """What it took, so far or in all; None before it began."""
        sequence = self.sequence
        return sequence.stats if sequence else self._stats

    @property
    def length(self) -> int:
        """How many tokens its cache holds once its prompt is read."""
        sequence = self.sequence  # which the owner may take away meanwhile
        return len(self.ids) + (len(sequence.tokens) if sequence else 0)

    def attach(self, lease: CacheLease) -> Sequence:
        """Begin with a cache, or go on with one after a pause."""
        self.lease = lease
        if self.sequence is None:
            self.start_time = time.perf_counter()
            self.sequence = self.make_sequence(self, lease)
        else:
            self.sequence.resume(
                lease.cache, self.token_ids[lease.cached_tokens :], lease.record
            )
        return self.sequence

    @property
    def token_ids(self) -> list[int]:
        """What its cache holds once its prompt is read."""
        return [*self.ids, *(self.sequence.tokens if self.sequence else ())]

    def finish(self) -> None:
        """Keep the figures, let go of the model and its cache."""
        if self.sequence is not None:
            self._stats = self.sequence.stats
        self._ended = True
        self.sequence = self.lease = None
