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
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial

import mlx.core as mx

from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.outputs import CANCELLED
from mlx_gptoss.engine.prompt_cache import PromptCache
from mlx_gptoss.engine.scheduler.admission import Admission
from mlx_gptoss.engine.scheduler.decode_step import (
    DecodeInput,
    DecodeStep,
    as_model_error,
)
from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.options import (
    MIN_RETRY_S,
    BatchCounters,
    BatchOptions,
    BatchStatistics,
)
from mlx_gptoss.engine.scheduler.prefill_queue import PrefillQueue
from mlx_gptoss.engine.scheduler.request import DECODE, ENDED, Request
from mlx_gptoss.engine.scheduler.waiting_queue import WaitingQueue
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.errors import BusyError, NonFiniteError
from mlx_gptoss.memory import PREFILL_CHUNK

log = logging.getLogger(__name__)

BUSY_CHUNK_DIVISOR = 4  # chunks are so many times shorter while others decode
MIN_CHUNK = 32
MASK_WAIT_S = 0.02  # that all wait for what one answer's grammar allows


class Scheduler:
    """Serves requests; `submit` is for any thread, the rest for the engine thread."""

    def __init__(
        self,
        thread: EngineThread,
        model: Callable[[], LanguageModel],
        prompts: Callable[[], PromptCache],
        options: BatchOptions,
        kv_budget: KVBudget,
        *,
        chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.options = options
        self.kv_budget = kv_budget
        self._thread = thread
        self._prompts = prompts
        self._chunk = chunk
        self._decode_step = DecodeStep(model)
        self._waiting = WaitingQueue()
        self._admission = Admission(options, kv_budget)
        self._running: list[Request] = []  # in the order they were let in
        self._prefill_queue = PrefillQueue()  # those of them that read their prompts
        self._reserved_bytes = 0  # bytes that the running need, when room was made last
        self._decoding = False
        self._counters = BatchCounters()
        self._condition = threading.Condition()
        self._scheduled = False

    # Any thread

    def submit(self, request: Request) -> None:
        """Have a request served. Raises BusyError if too many must wait."""
        request.find_position, request.wake_scheduler = (
            self._waiting.position,
            self.wake,
        )
        try:
            self._waiting.put(request, partial(self._refusal, request))
        except BusyError:
            self._counters.add(refused=1)
            raise
        self._counters.add(requests=1)
        self.wake()

    def wake(self) -> None:
        """Begin a round soon, if there is anything to do."""
        with self._condition:
            if self._scheduled or self._idle:
                return
            self._scheduled = True
        self._thread.post(self._run_iteration)

    def drain(self, timeout: float | None) -> bool:
        """Take no more, and wait until all have ended; say whether they did."""
        error = BusyError("the model is shutting down: ask another one", MIN_RETRY_S)
        self._waiting.close(error)
        with self._condition:
            return self._condition.wait_for(lambda: self._idle, timeout)

    @property
    def statistics(self) -> BatchStatistics:
        return self._counters.snapshot(
            running=len(self._running), waiting=len(self._waiting)
        )

    @property
    def _idle(self) -> bool:
        return not self._running and not len(self._waiting)

    def _refusal(self, request: Request, queued: list[Request]) -> BusyError | None:
        running = list(self._running)
        return self._admission.refusal(
            request, running, queued, lambda: self._counters.retry_after(len(running))
        )

    # The owner thread

    def close(self, error: Exception) -> None:
        """End every request as cancelled; whoever asks later gets the error."""
        self._waiting.close(error)
        for request in [*self._running, *self._waiting.requests()]:
            self._finish(request)
        with self._condition:
            self._condition.notify_all()

    def _run_iteration(self) -> None:
        try:
            self._finish_cancelled()
            self._preempt_to_fit()
            self._admit()
            self._prefill()
            self._decode()
        except Exception as error:  # nobody waits for a round: its requests must know
            log.exception("a round of requests failed")
            for request in [*self._running, *self._waiting.requests()]:
                self._finish(request, as_model_error(error, "served requests"))
        finally:
            with self._condition:
                self._scheduled = False
                self._condition.notify_all()
            if not self._thread.closed and not self._blocked_on_masks:
                self.wake()

    def _finish_cancelled(self) -> None:
        for request in [*self._running, *self._waiting.requests()]:
            if request.cancelled:
                self._finish(request)

    def _preempt_to_fit(self) -> None:
        """Pause the newest while all do not fit; then forget what is not in use."""
        while len(self._running) > 1 and not self.kv_budget.fits(self._next_lengths()):
            self._preempt(self._running[-1])
        self._shrink_prompt_cache()

    def _next_lengths(self) -> list[int]:
        """How long those that run are, with one token more."""
        return [request.length + 1 for request in self._running]

    def _shrink_prompt_cache(self) -> None:
        """Have the prompt cache leave room for what the running will grow to."""
        total = self.kv_budget.total_bytes(self._next_lengths())
        if self.kv_budget.capacity is None or total == self._reserved_bytes:
            return
        self._reserved_bytes = total
        leases = [t.lease for t in self._running if t.lease is not None]
        held = sum(lease.cache.nbytes for lease in leases)
        self._prompts().shrink(self.kv_budget.capacity - max(0, total - held))

    def _preempt(self, request: Request) -> None:
        """Give back the cache of a request, and let it wait before all others."""
        self._remove_running(request)
        with self._isolate_errors(request):
            if request.sequence is not None and request.lease is not None:
                request.sequence.preempt()
                lease, request.lease = request.lease, None
                lease.release()
            self._counters.add(paused=1)
            self._waiting.put_front(request)

    def _admit(self) -> None:
        """Let in who waits, in order, as long as there is room to grow a little."""
        while (request := self._waiting.peek()) is not None:
            if not self._admission.admits(self._running, request):
                return
            if not self._running:
                mx.reset_peak_memory()
            self._running.append(request)  # before it leaves the queue: never idle
            self._prefill_queue.add(request)
            self._waiting.remove(request)

    def _prefill(self) -> None:
        """Read a chunk in all, of the prompts whose turn it is."""
        done, least = 0, min(MIN_CHUNK, self._chunk)
        while (left := self._prefill_budget - done) >= least:
            request = self._prefill_queue.pop()
            if request is None:
                return
            with self._isolate_errors(request):
                done += self._prefill_request(request, min(left, self._chunk))

    @property
    def _prefill_budget(self) -> int:
        """How many tokens of prompts may be read before the next step."""
        others = any(t.state == DECODE for t in self._running)
        return (
            max(MIN_CHUNK, self._chunk // BUSY_CHUNK_DIVISOR) if others else self._chunk
        )

    def _prefill_request(self, request: Request, most: int) -> int:
        """Read the next tokens of a prompt; return how many, or 1 if none was left."""
        sequence = request.sequence
        if sequence is None or request.lease is None:
            sequence = self._attach_cache(request)
        try:
            count = sequence.prefill(most) if sequence.prefilling else 1
        except Exception as error:
            raise as_model_error(error, "read the prompt") from error
        if sequence.prefilling:
            self._prefill_queue.add(request)
        total = len(request.ids)
        request.on_progress(min(sequence.cache.offset, total), total)
        return count

    def _attach_cache(self, request: Request) -> Sequence:
        """Take the cache that is best for a prompt, and begin or go on there."""
        sequence = request.sequence
        drawn = [] if sequence is None else sequence.lookahead_ids
        lease = self._prompts().acquire(
            [*request.token_ids, *drawn], shared=request.shared
        )
        if sequence is None:
            self._counters.add(
                prompt_tokens=len(request.ids), cached_tokens=lease.cached_tokens
            )
        return request.attach(lease)

    def _decode(self) -> None:
        """Give every answer that is being decoded its next token."""
        self._decoding = True
        try:
            for request, sequence in self._run_decode_step():
                if request.state != DECODE:
                    continue
                with self._isolate_errors(request):
                    step = sequence.complete_step()
                    self._counters.add(completion_tokens=1)
                    # The last one is told in any case: the statistics count on it.
                    if sequence.finished or not request.cancelled:
                        request.on_step(step)
        finally:
            self._decoding = False
        for request in [t for t in self._running if t.sequence and t.sequence.finished]:
            self._finish(request)

    def _run_decode_step(self) -> list[tuple[Request, Sequence]]:
        """Have the model read a token of each answer, and draw those after them."""
        ready: list[DecodeInput] = []
        for request in self._decodable():
            with self._isolate_errors(request):
                assert request.sequence is not None
                ready.append(
                    DecodeInput(
                        request, request.sequence, request.sequence.next_input()
                    )
                )
        feeding = [fed for fed in ready if fed[-1] is not None]
        try:
            if feeding:
                self._counters.record_batch_size(len(feeding))
                self._decode_step.run(feeding, self._isolate_errors)
        except Exception as error:
            for request, *_ in feeding:
                self._finish(request, as_model_error(error, "decoded"))
        for request, sequence, drawn in ready:
            if drawn is None and request.state == DECODE:
                sequence.sample_next(None)
        return [(request, sequence) for request, sequence, _ in ready]

    def _decodable(self) -> list[Request]:
        """Those that can have their next token now.

        What may come next can be slow to find out: for that all wait a moment, once;
        then the others go on without that answer until it is found.
        """
        ready, until = [], time.perf_counter() + MASK_WAIT_S
        for request in [t for t in self._running if t.sequence and t.state == DECODE]:
            with self._isolate_errors(request):
                assert request.sequence is not None
                pending = request.sequence.pending_mask
                if pending is not None and pending is not request.awaited_mask:
                    wait([pending], max(0, until - time.perf_counter()))
                    request.awaited_mask = pending
                    pending.add_done_callback(lambda _: self.wake())
                if pending is None or pending.done():
                    ready.append(request)
        return ready

    @property
    def _blocked_on_masks(self) -> bool:
        """Whether all that run were found to wait: what they wait for wakes this."""
        return bool(self._running) and all(
            t.sequence is not None
            and t.state == DECODE
            and t.awaited_mask is not None
            and t.sequence.pending_mask is t.awaited_mask
            for t in self._running
        )

    @contextmanager
    def _isolate_errors(self, request: Request) -> Iterator[None]:
        """Let an error of one request end that one only."""
        try:
            yield
        except Exception as error:
            self._finish(request, error)

    def _remove_running(self, request: Request) -> None:
        self._prefill_queue.remove(request)
        if request in self._running:
            self._running.remove(request)
        if not self._running:
            self._decode_step.clear()

    def _finish(self, request: Request, error: Exception | None = None) -> None:
        """Give its cache back and tell who asked, once and last."""
        if request.state == ENDED:  # a callback may have closed everything
            return
        lease, sequence = request.lease, request.sequence
        stopped = error is None and not (sequence and sequence.finished)
        if sequence is not None and error is None:
            sequence.finish(CANCELLED)  # unless it ended by itself
            self._counters.record_duration(time.perf_counter() - request.start_time)
        request.finish()
        if lease is not None:
            # In the middle of a step the cache has read what was not told yet.
            if error is not None or self._decoding:
                lease.discard(non_finite=isinstance(error, NonFiniteError))
            else:
                lease.release()
        self._counters.add(
            failed=error is not None, cancelled=stopped, finished=not (stopped or error)
        )
        try:
            request.on_end(request.stats, error)
        except Exception:
            log.exception("the end of a request could not be told")
        self._remove_running(request)
        self._waiting.remove(request)
