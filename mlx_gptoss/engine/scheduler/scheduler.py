"""The rounds of a batch: a chunk of prompts, then a step of every answer.

A round is one piece of work of the owner thread, which asks for the next one behind
whatever else was asked there meanwhile: other work keeps its place, and none of it
waits for more than a chunk and a step. Requests come from any thread.

Where the keys and values of all would take more than there is, the newest pauses: its
cache goes back to the prompt cache, and it goes on from there with the same tokens.

An error that comes of one request (its guide, its callbacks, logits that are not
finite) ends that one. One that comes of the model ends all that were being computed;
those that wait are served.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial

import mlx.core as mx

from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.outputs import CANCELLED
from mlx_gptoss.engine.prompt_cache import PromptCache
from mlx_gptoss.engine.scheduler.admission import Admission
from mlx_gptoss.engine.scheduler.decode_step import Fed, Feeder, failed
from mlx_gptoss.engine.scheduler.kv_budget import Governor
from mlx_gptoss.engine.scheduler.options import (
    LEAST_WAIT_S,
    BatchOptions,
    BatchStatistics,
    Figures,
)
from mlx_gptoss.engine.scheduler.prefill_queue import Reading
from mlx_gptoss.engine.scheduler.queue import Queue
from mlx_gptoss.engine.scheduler.request import DECODE, ENDED, Ticket
from mlx_gptoss.engine.sequence import Decoding
from mlx_gptoss.engine.thread import Owner
from mlx_gptoss.errors import BusyError, NonFiniteError
from mlx_gptoss.memory import PREFILL_CHUNK

log = logging.getLogger(__name__)

BUSY_SHARE = 4  # chunks are so many times shorter while others decode
LEAST_CHUNK = 32
MASK_SECONDS = 0.02  # that all wait for what one answer's grammar allows


class Engine:
    """Serves tickets; `submit` may be called in any thread, the rest is the owner's."""

    def __init__(
        self,
        owner: Owner,
        model: Callable[[], LanguageModel],
        prompts: Callable[[], PromptCache],
        options: BatchOptions,
        governor: Governor,
        *,
        chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.options = options
        self.governor = governor
        self._owner = owner
        self._prompts = prompts
        self._chunk = chunk
        self._feeder = Feeder(model)
        self._queue = Queue()
        self._admission = Admission(options, governor)
        self._running: list[Ticket] = []  # in the order they were let in
        self._reading = Reading()  # those of them that read their prompts
        self._total = 0  # bytes that the running need, when room was made last
        self._stepping = False
        self._figures = Figures()
        self._lock = threading.Condition()
        self._awake = False

    # Any thread

    def submit(self, ticket: Ticket) -> None:
        """Have a ticket served. Raises BusyError if too many must wait."""
        ticket.find, ticket.wake = self._queue.position, self.wake
        try:
            self._queue.put(ticket, partial(self._refusal, ticket))
        except BusyError:
            self._figures.count(refused=1)
            raise
        self._figures.count(requests=1)
        self.wake()

    def wake(self) -> None:
        """Begin a round soon, if there is anything to do."""
        with self._lock:
            if self._awake or self._idle:
                return
            self._awake = True
        self._owner.post(self._round)

    def drain(self, timeout: float | None) -> bool:
        """Take no more, and wait until all have ended; say whether they did."""
        error = BusyError("the model is shutting down: ask another one", LEAST_WAIT_S)
        self._queue.close(error)
        with self._lock:
            return self._lock.wait_for(lambda: self._idle, timeout)

    @property
    def statistics(self) -> BatchStatistics:
        return self._figures.now(running=len(self._running), waiting=len(self._queue))

    @property
    def _idle(self) -> bool:
        return not self._running and not len(self._queue)

    def _refusal(self, ticket: Ticket, queued: Sequence[Ticket]) -> BusyError | None:
        running = list(self._running)
        return self._admission.refusal(
            ticket, running, queued, lambda: self._figures.retry_after(len(running))
        )

    # The owner thread

    def close(self, error: Exception) -> None:
        """End every ticket as cancelled; whoever asks later gets the error."""
        self._queue.close(error)
        for ticket in [*self._running, *self._queue.tickets()]:
            self._end(ticket)
        with self._lock:
            self._lock.notify_all()

    def _round(self) -> None:
        try:
            self._end_cancelled()
            self._make_room()
            self._admit()
            self._read_prompts()
            self._step()
        except Exception as error:  # nobody waits for a round: its tickets must know
            log.exception("a round of requests failed")
            for ticket in [*self._running, *self._queue.tickets()]:
                self._end(ticket, failed(error, "served requests"))
        finally:
            with self._lock:
                self._awake = False
                self._lock.notify_all()
            if not self._owner.closed and not self._stands:
                self.wake()

    def _end_cancelled(self) -> None:
        for ticket in [*self._running, *self._queue.tickets()]:
            if ticket.cancelled:
                self._end(ticket)

    def _make_room(self) -> None:
        """Pause the newest while all do not fit; then forget what is not in use."""
        while len(self._running) > 1 and not self.governor.fits(self._lengths()):
            self._pause(self._running[-1])
        self._forget()

    def _lengths(self) -> list[int]:
        """How long those that run are, with one token more."""
        return [ticket.length + 1 for ticket in self._running]

    def _forget(self) -> None:
        """Have the prompt cache leave room for what the running will grow to."""
        total = self.governor.total(self._lengths())
        if self.governor.room is None or total == self._total:
            return
        self._total = total
        leases = [t.lease for t in self._running if t.lease is not None]
        held = sum(lease.cache.nbytes for lease in leases)
        self._prompts().make_room(self.governor.room - max(0, total - held))

    def _pause(self, ticket: Ticket) -> None:
        """Give back the cache of a ticket, and let it wait before all others."""
        self._leave(ticket)
        with self._alone(ticket):
            if ticket.decoding is not None and ticket.lease is not None:
                ticket.decoding.pause()
                lease, ticket.lease = ticket.lease, None
                lease.release()
            self._figures.count(paused=1)
            self._queue.put_first(ticket)

    def _admit(self) -> None:
        """Let in who waits, in order, as long as there is room to grow a little."""
        while (ticket := self._queue.first()) is not None:
            if not self._admission.lets_in(self._running, ticket):
                return
            if not self._running:
                mx.reset_peak_memory()
            self._running.append(ticket)  # before it leaves the queue: never idle
            self._reading.add(ticket)
            self._queue.remove(ticket)

    def _read_prompts(self) -> None:
        """Read a chunk in all, of the prompts whose turn it is."""
        done, least = 0, min(LEAST_CHUNK, self._chunk)
        while (left := self._readable - done) >= least:
            ticket = self._reading.take()
            if ticket is None:
                return
            with self._alone(ticket):
                done += self._read_some(ticket, min(left, self._chunk))

    @property
    def _readable(self) -> int:
        """How many tokens of prompts may be read before the next step."""
        others = any(t.state == DECODE for t in self._running)
        return max(LEAST_CHUNK, self._chunk // BUSY_SHARE) if others else self._chunk

    def _read_some(self, ticket: Ticket, most: int) -> int:
        """Read the next tokens of a prompt; return how many, or 1 if none was left."""
        decoding = ticket.decoding
        if decoding is None or ticket.lease is None:
            decoding = self._begin(ticket)
        try:
            count = decoding.read_some(most) if decoding.reading else 1
        except Exception as error:
            raise failed(error, "read the prompt") from error
        if decoding.reading:
            self._reading.add(ticket)
        total = len(ticket.ids)
        ticket.on_progress(min(decoding.cache.offset, total), total)
        return count

    def _begin(self, ticket: Ticket) -> Decoding:
        """Take the cache that is best for a prompt, and begin or go on there."""
        decoding = ticket.decoding
        drawn = [] if decoding is None else decoding.drawn
        lease = self._prompts().lease([*ticket.known, *drawn], shared=ticket.shared)
        if decoding is None:
            self._figures.count(
                prompt_tokens=len(ticket.ids), cached_tokens=lease.cached
            )
        return ticket.take(lease)

    def _step(self) -> None:
        """Give every answer that is being decoded its next token."""
        self._stepping = True
        try:
            for ticket, decoding in self._fed():
                if ticket.state != DECODE:
                    continue
                with self._alone(ticket):
                    step = decoding.read()
                    self._figures.count(completion_tokens=1)
                    # The last one is told in any case: the statistics count on it.
                    if decoding.over or not ticket.cancelled:
                        ticket.on_step(step)
        finally:
            self._stepping = False
        for ticket in [t for t in self._running if t.decoding and t.decoding.over]:
            self._end(ticket)

    def _fed(self) -> list[tuple[Ticket, Decoding]]:
        """Have the model read a token of each answer, and draw those after them."""
        ready: list[Fed] = []
        for ticket in self._ready():
            with self._alone(ticket):
                assert ticket.decoding is not None
                ready.append((ticket, ticket.decoding, ticket.decoding.next_draw()))
        feeding = [fed for fed in ready if fed[-1] is not None]
        try:
            if feeding:
                self._figures.count_batch(len(feeding))
                self._feeder.feed(feeding, self._alone)
        except Exception as error:
            for ticket, *_ in feeding:
                self._end(ticket, failed(error, "decoded"))
        for ticket, decoding, drawn in ready:
            if drawn is None and ticket.state == DECODE:
                decoding.take(None)
        return [(ticket, decoding) for ticket, decoding, _ in ready]

    def _ready(self) -> list[Ticket]:
        """Those that can have their next token now.

        What may come next can be slow to find out: for that all wait a moment, once;
        then the others go on without that answer until it is found.
        """
        ready, until = [], time.perf_counter() + MASK_SECONDS
        for ticket in [t for t in self._running if t.decoding and t.state == DECODE]:
            with self._alone(ticket):
                assert ticket.decoding is not None
                pending = ticket.decoding.pending
                if pending is not None and pending is not ticket.late:
                    wait([pending], max(0, until - time.perf_counter()))
                    ticket.late = pending
                    pending.add_done_callback(lambda _: self.wake())
                if pending is None or pending.done():
                    ready.append(ticket)
        return ready

    @property
    def _stands(self) -> bool:
        """Whether all that run were found to wait: what they wait for wakes this."""
        return bool(self._running) and all(
            t.decoding is not None
            and t.state == DECODE
            and t.late is not None
            and t.decoding.pending is t.late
            for t in self._running
        )

    @contextmanager
    def _alone(self, ticket: Ticket) -> Iterator[None]:
        """Let an error of one request end that one only."""
        try:
            yield
        except Exception as error:
            self._end(ticket, error)

    def _leave(self, ticket: Ticket) -> None:
        self._reading.remove(ticket)
        if ticket in self._running:
            self._running.remove(ticket)
        if not self._running:
            self._feeder.forget()

    def _end(self, ticket: Ticket, error: Exception | None = None) -> None:
        """Give its cache back and tell who asked, once and last."""
        if ticket.state == ENDED:  # a callback may have closed everything
            return
        lease, decoding = ticket.lease, ticket.decoding
        stopped = error is None and not (decoding and decoding.over)
        if decoding is not None and error is None:
            decoding.finish(CANCELLED)  # unless it ended by itself
            self._figures.took(time.perf_counter() - ticket.begun)
        ticket.end()
        if lease is not None:
            # In the middle of a step the cache has read what was not told yet.
            if error is not None or self._stepping:
                lease.drop(broken=isinstance(error, NonFiniteError))
            else:
                lease.release()
        self._figures.count(
            failed=error is not None, cancelled=stopped, finished=not (stopped or error)
        )
        try:
            ticket.on_end(ticket.stats, error)
        except Exception:
            log.exception("the end of a request could not be told")
        self._leave(ticket)
        self._queue.remove(ticket)
