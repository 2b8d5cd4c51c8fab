"""One request of a batch: its prompt, callbacks, state and statistics.

Knows no model and no other request; the scheduler drives it.
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
    """A request submitted with `Runtime.submit`.

    `cancel`, `state`, `position` and `stats` may be used in any thread. The rest
    belongs to the scheduler in the engine thread, where the callbacks are called too:
    they must not block. Requests with the same `group` are admitted or refused
    together.
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
        self.awaited_mask: object = None  # a mask the batch no longer waits for
        # The scheduler replaces these two in `submit`.
        self.find_position: Callable[[Request], int] = lambda request: 0
        self.wake_scheduler: Callable[[], None] = lambda: None
        self._stats: Statistics | None = None
        self._ended = False

    def cancel(self) -> None:
        """End it within one step; `on_end` is still called. Safe to repeat."""
        self.cancelled = True
        self.wake_scheduler()

    @property
    def state(self) -> str:
        """`queued` (also while preempted), `prefill`, `decode` or `ended`."""
        if self._ended:
            return ENDED
        sequence = self.sequence
        if sequence is None or self.lease is None:
            return QUEUED
        return PREFILL if sequence.prefilling else DECODE

    @property
    def position(self) -> int:
        """The place in the queue: 1 is next, 0 is not in the queue."""
        return self.find_position(self)

    @property
    def stats(self) -> Statistics | None:
        """The statistics so far, or of the whole answer; None before it started."""
        sequence = self.sequence
        return sequence.stats if sequence else self._stats

    @property
    def length(self) -> int:
        """The number of tokens in its cache once prefill is done."""
        sequence = self.sequence  # the engine thread may remove it meanwhile
        return len(self.ids) + (len(sequence.tokens) if sequence else 0)

    def attach(self, lease: CacheLease) -> Sequence:
        """Start with a leased cache, or resume with it after preemption."""
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
        """The token ids in its cache once prefill is done: prompt and answer so far."""
        return [*self.ids, *(self.sequence.tokens if self.sequence else ())]

    def finish(self) -> None:
        """Keep the statistics; release the model and its cache."""
        if self.sequence is not None:
            self._stats = self.sequence.stats
        self._ended = True
        self.sequence = self.lease = None
