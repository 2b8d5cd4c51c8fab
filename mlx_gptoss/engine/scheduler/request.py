"""One request of a batch: what was asked, how far it is, its end.

Knows no model and no other request; the engine moves it on.
"""

import time
from collections.abc import Callable, Sequence

from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_cache import Lease
from mlx_gptoss.engine.prompt_cache.tree import as_tokens
from mlx_gptoss.engine.sequence import Decoding

QUEUED, PREFILL, DECODE, ENDED = "queued", "prefill", "decode", "ended"

OnStep = Callable[[Step], None]
OnEnd = Callable[[Statistics | None, BaseException | None], None]
OnProgress = Callable[[int, int], None]  # done, total


class Ticket:
    """What `Runtime.submit` gives: `cancel`, `state`, `position`, `stats`.

    These may be used in any thread. The rest is the engine's, in the owner thread,
    where the callbacks are called too: they must not block. Tickets of one `request`
    are taken or refused together.
    """

    def __init__(
        self,
        ids: Sequence[int],
        begin: Callable[["Ticket", Lease], Decoding],
        *,
        on_step: OnStep,
        on_end: OnEnd,
        on_progress: OnProgress | None = None,
        shared: bool = False,
        request: object = None,
    ) -> None:
        self.ids = ids
        self.prompt = as_tokens(ids)
        self.begin = begin
        self.on_step = on_step
        self.on_end = on_end
        self.on_progress = on_progress or (lambda done, total: None)
        self.shared = shared
        self.request = self if request is None else request
        self.asked = time.perf_counter()
        self.begun = 0.0
        self.lease: Lease | None = None
        self.decoding: Decoding | None = None
        self.cancelled = False
        self.late: object = None  # what it waits for, and the others do not any more
        # The engine puts its own here when it takes the ticket.
        self.find: Callable[[Ticket], int] = lambda ticket: 0
        self.wake: Callable[[], None] = lambda: None
        self._stats: Statistics | None = None
        self._ended = False

    def cancel(self) -> None:
        """End it within one step; `on_end` is still called. Twice is once."""
        self.cancelled = True
        self.wake()

    @property
    def state(self) -> str:
        """`queued` (before it began, or paused), `prefill`, `decode` or `ended`."""
        if self._ended:
            return ENDED
        decoding = self.decoding
        if decoding is None or self.lease is None:
            return QUEUED
        return PREFILL if decoding.reading else DECODE

    @property
    def position(self) -> int:
        """The place in the queue: 1 is next, 0 does not wait."""
        return self.find(self)

    @property
    def stats(self) -> Statistics | None:
        """What it took, so far or in all; None before it began."""
        decoding = self.decoding
        return decoding.stats if decoding else self._stats

    @property
    def length(self) -> int:
        """How many tokens its cache holds once its prompt is read."""
        decoding = self.decoding  # which the owner may take away meanwhile
        return len(self.ids) + (len(decoding.tokens) if decoding else 0)

    def take(self, lease: Lease) -> Decoding:
        """Begin with a cache, or go on with one after a pause."""
        self.lease = lease
        if self.decoding is None:
            self.begun = time.perf_counter()
            self.decoding = self.begin(self, lease)
        else:
            self.decoding.resume(lease.cache, self.known[lease.cached :], lease.fed)
        return self.decoding

    @property
    def known(self) -> list[int]:
        """What its cache holds once its prompt is read."""
        return [*self.ids, *(self.decoding.tokens if self.decoding else ())]

    def end(self) -> None:
        """Keep the figures, let go of the model and its cache."""
        if self.decoding is not None:
            self._stats = self.decoding.stats
        self._ended = True
        self.decoding = self.lease = None
