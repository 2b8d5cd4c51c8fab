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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_gptoss.batching.options import BatchOptions, BatchStatistics
from mlx_gptoss.batching.ticket import DECODE, Ticket
from mlx_gptoss.decoding import Decoding
from mlx_gptoss.errors import BusyError, GptOssError, ModelError
from mlx_gptoss.generate import CLEAR_EVERY
from mlx_gptoss.interfaces import LanguageModel
from mlx_gptoss.linear import on_gpu
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.owner import Owner
from mlx_gptoss.prompt_cache import PromptCache
from mlx_gptoss.steps import CANCELLED

log = logging.getLogger(__name__)

BUSY_SHARE = 4  # chunks are so many times shorter while others decode
LEAST_CHUNK = 32

Fed = tuple[Ticket, Decoding, mx.array | None]  # and the logits (V,) that follow


class Engine:
    """Serves tickets; `submit` may be called in any thread, the rest is the owner's."""

    def __init__(
        self,
        owner: Owner,
        model: Callable[[], LanguageModel],
        prompts: Callable[[], PromptCache],
        options: BatchOptions,
        *,
        chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.options = options
        self._owner = owner
        self._model = model
        self._prompts = prompts
        self._chunk = chunk
        self._lock = threading.RLock()
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []  # changed by the owner only
        self._reading: deque[Ticket] = deque()  # those of them that read their prompts
        self._awake = False
        self._counts = BatchStatistics()
        self._sizes: Counter[int] = Counter()
        self._rounds = 0
        self._before: mx.array | None = None  # the logits of the round before

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
        with self._alone(ticket):
            decoding = ticket.decoding or self._begin(ticket)
            try:
                decoding.read_some(chunk)
            except Exception as error:
                raise failed(error, "read the prompt") from error
            if decoding.reading:
                self._reading.append(ticket)
            ticket.on_progress(decoding.cache.offset, len(ticket.ids))

    def _begin(self, ticket: Ticket) -> Decoding:
        """Take the cache that is best for a prompt, and begin where it stands."""
        ticket.lease = self._prompts().lease(ticket.ids)
        ticket.decoding = ticket.begin(ticket, ticket.lease)
        stats = ticket.decoding.stats
        self._count(
            prompt_tokens=stats.prompt_tokens, cached_tokens=stats.cached_tokens
        )
        return ticket.decoding

    def _step(self) -> None:
        """Give every answer that is being decoded its next token."""
        batch = self._feed([t for t in self._running if t.state == DECODE])
        for ticket, decoding, logits in batch:
            with self._alone(ticket):
                decoding.take(logits)
        for ticket, decoding, _ in batch:
            if ticket.state != DECODE:
                continue
            with self._alone(ticket):
                step = decoding.read()
                self._count(completion_tokens=1)
                ticket.on_step(step)
            if decoding.over:
                self._end(ticket)

    def _feed(self, tickets: list[Ticket]) -> list[Fed]:
        """Have the model read one token of each, and start computing what follows."""
        feeding: list[tuple[Ticket, Decoding, mx.array]] = []
        ending: list[Fed] = []
        for ticket in tickets:
            with self._alone(ticket):
                decoding = ticket.decoding
                assert decoding is not None
                token = decoding.next_token()
                if token is None:
                    ending.append((ticket, decoding, None))
                else:
                    feeding.append((ticket, decoding, token))
        if not feeding:
            return ending
        self._sizes[len(feeding)] += 1
        try:
            rows = self._logits(
                [d.cache for _, d, _ in feeding], [t for *_, t in feeding]
            )
        except Exception as error:
            for ticket, *_ in feeding:
                self._end(ticket, failed(error, "decoded"))
            return ending
        fed = zip(feeding, rows, strict=True)
        return [(ticket, d, row) for (ticket, d, _), row in fed] + ending

    def _logits(self, caches: list[Any], tokens: list[mx.array]) -> list[mx.array]:
        """Return the logits (V,) behind each token (), which need not be computed.

        One answer alone takes the very path of `generate`. What it waits for are the
        logits of the step before, so that an error of the model shows here.
        """
        model = self._model()
        self._rounds += 1
        if on_gpu() and self._rounds % CLEAR_EVERY == 0:
            mx.clear_cache()  # growing caches leave their former arrays behind
        if len(caches) == 1:
            hidden = model.hidden(tokens[0].reshape(1, 1), caches[0])
        else:
            hidden = model.hidden(mx.stack(tokens)[:, None], caches)  # (B, 1, M)
        logits = model.logits(hidden)[:, -1].astype(mx.float32)  # (B, V)
        mx.async_eval(logits)
        mx.eval(self._before)
        self._before = logits
        return [logits[b] for b in range(len(caches))]

    @contextmanager
    def _alone(self, ticket: Ticket) -> Iterator[None]:
        """Let an error of one request end that one only."""
        try:
            yield
        except Exception as error:
            self._end(ticket, error)

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
                if not self._running:
                    self._before = None
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


def failed(error: Exception, doing: str) -> Exception:
    """Name an error of the model, unless it has a name of ours already."""
    if isinstance(error, GptOssError):
        return error
    named = ModelError(f"the model failed while it {doing}: {error}")
    named.__cause__ = error
    return named
