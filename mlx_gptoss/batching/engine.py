"""The rounds of a batch: a chunk of one prompt, then a step of every answer.

A round is one piece of work of the owner thread, which asks for the next one behind
whatever else was asked there meanwhile: other work keeps its place, and none of it
waits for more than a chunk and a step. Requests come from any thread.

An error that comes of one request (its guide, its callbacks) ends that one. One that
comes of the model ends all that were being computed; those that wait are served.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from mlx_gptoss.batching.options import BatchOptions, BatchStatistics
from mlx_gptoss.batching.ticket import Ticket
from mlx_gptoss.errors import BusyError
from mlx_gptoss.generate import advance
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.owner import Owner
from mlx_gptoss.prompt_cache import PromptCache
from mlx_gptoss.steps import CANCELLED

log = logging.getLogger(__name__)

BUSY_SHARE = 4  # chunks are so many times shorter while others decode
LEAST_CHUNK = 32


class Engine:
    """Serves tickets; `submit` may be called in any thread, the rest is the owner's."""

    def __init__(
        self,
        owner: Owner,
        prompts: Callable[[], PromptCache],
        options: BatchOptions,
        *,
        chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.options = options
        self._owner = owner
        self._prompts = prompts
        self._chunk = chunk
        self._lock = threading.RLock()
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []  # changed by the owner only
        self._reading: deque[Ticket] = deque()  # those of them that read their prompts
        self._awake = False
        self._counts = BatchStatistics()
        self._sizes: Counter[int] = Counter()

    # Any thread

    def submit(self, ticket: Ticket) -> None:
        """Have a ticket served. Raises BusyError if too many wait."""
        with self._lock:
            if len(self._waiting) >= self.options.max_waiting:
                self._count(refused=1)
                raise BusyError(
                    f"{len(self._waiting)} requests wait already: try again later",
                    retry_after=1.0,
                )
            self._waiting.append(ticket)
            self._count(requests=1)
        self.wake()

    def position(self, ticket: Ticket) -> int:
        with self._lock:
            return 1 + self._waiting.index(ticket) if ticket in self._waiting else 0

    def wake(self) -> None:
        """Begin a round soon, if there is anything to do."""
        with self._lock:
            if self._awake or not (self._waiting or self._running):
                return
            self._awake = True
        self._owner.post(self._round)

    @property
    def statistics(self) -> BatchStatistics:
        with self._lock:
            return replace(
                self._counts,
                running=len(self._running),
                waiting=len(self._waiting),
                batch_sizes=dict(self._sizes),
            )

    # The owner thread

    def _round(self) -> None:
        try:
            self._end_cancelled()
            self._admit()
            self._read_prompt()
            self._step()
        finally:
            with self._lock:
                self._awake = False
            if not self._owner.closed:
                self.wake()

    def end_all(self, error: BaseException | None = None) -> None:
        """End every ticket, as cancelled or with an error."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for ticket in [*self._running, *waiting]:
            self._end(ticket, error)

    def _end_cancelled(self) -> None:
        with self._lock:
            gone = [ticket for ticket in self._waiting if ticket.cancelled]
            self._waiting = deque(t for t in self._waiting if not t.cancelled)
        for ticket in [*gone, *(t for t in self._running if t.cancelled)]:
            self._end(ticket)

    def _admit(self) -> None:
        with self._lock:
            free = self.options.max_running - len(self._running)
            came = [
                self._waiting.popleft() for _ in range(min(free, len(self._waiting)))
            ]
            self._running += came
        self._reading.extend(came)

    def _read_prompt(self) -> None:
        """Read a chunk of the prompt whose turn it is."""
        if not self._reading:
            return
        ticket = self._reading.popleft()
        others = len(self._reading) + 1 < len(self._running)
        chunk = max(LEAST_CHUNK, self._chunk // BUSY_SHARE) if others else self._chunk
        try:
            if ticket.decoding is None:
                ticket.lease = self._prompts().lease(ticket.ids)
                ticket.decoding = ticket.begin(ticket, ticket.lease)
                stats = ticket.decoding.stats
                self._count(
                    prompt_tokens=stats.prompt_tokens, cached_tokens=stats.cached_tokens
                )
            ticket.decoding.read_some(chunk)
            ticket.on_progress(ticket.lease.cache.offset, len(ticket.ids))
        except Exception as error:
            self._end(ticket, error)
            return
        if ticket.decoding.reading:
            self._reading.append(ticket)

    def _step(self) -> None:
        """Give every answer that is being decoded its next token."""
        ready = [t for t in self._running if t.decoding and not t.decoding.reading]
        if ready:
            self._sizes[len(ready)] += 1
        for ticket in ready:
            assert ticket.decoding is not None
            try:
                step = advance(ticket.decoding)
                self._count(completion_tokens=1)
                ticket.on_step(step)
            except Exception as error:
                self._end(ticket, error)
                continue
            if ticket.decoding.over:
                self._end(ticket)

    def _end(self, ticket: Ticket, error: BaseException | None = None) -> None:
        """Give its cache back and tell its owner, once and last."""
        lease, decoding = ticket.lease, ticket.decoding
        if decoding is not None and error is None:
            decoding.finish(CANCELLED)  # unless it ended by itself
        stopped = ticket.cancelled and error is None
        ticket.end()
        with self._lock:
            if ticket in self._running:
                self._running.remove(ticket)
        if ticket in self._reading:
            self._reading.remove(ticket)
        if lease is not None:
            lease.drop() if error is not None else lease.release()
        self._count(
            failed=error is not None, cancelled=stopped, finished=not (stopped or error)
        )
        try:
            ticket.on_end(ticket.stats, error)
        except Exception:
            log.exception("the end of a request could not be told")

    def _count(self, **more: int) -> None:
        with self._lock:
            sums = {name: getattr(self._counts, name) + n for name, n in more.items()}
            self._counts = replace(self._counts, **sums)
