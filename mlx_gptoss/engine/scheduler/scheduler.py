"""Continuous batching: each iteration prefills a chunk, then decodes one token per row.

An iteration is one piece of work of the engine thread, which queues the next one after
any other work submitted meanwhile, so that work waits for at most a chunk and a decode
step. Requests come from any thread.

If the keys and values of all running requests would not fit, the newest is preempted:
its cache goes back to the prompt cache, and it resumes later with the same tokens.

An error caused by one request (its guide, its callbacks, logits that are not finite)
ends only that request. An error of the model ends all that were being computed; waiting
requests are still served.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
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
from mlx_gptoss.engine.scheduler.masks import blocked_on_masks, ready_to_decode
from mlx_gptoss.engine.scheduler.options import BatchOptions
from mlx_gptoss.engine.scheduler.prefill_queue import PrefillQueue
from mlx_gptoss.engine.scheduler.request import DECODE, ENDED, Request
from mlx_gptoss.engine.scheduler.statistics import (
    MIN_RETRY_S,
    BatchCounters,
    BatchStatistics,
)
from mlx_gptoss.engine.scheduler.waiting_queue import WaitingQueue
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.errors import BusyError, NonFiniteError
from mlx_gptoss.memory import PREFILL_CHUNK

log = logging.getLogger(__name__)

BUSY_CHUNK_DIVISOR = 4  # prefill chunks are 4 times shorter while requests decode
MIN_CHUNK = 32  # tokens


class Scheduler:
    """Runs requests in a batch.

    `submit`, `wake`, `drain` and `statistics` are for any thread, the rest for the
    engine thread. `chunk` is the most prompt tokens per iteration.
    """

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
        self._running: list[Request] = []  # in order of admission
        self._prefill_queue = PrefillQueue()  # the running requests in prefill
        self._reserved_bytes = 0  # at the last `_shrink_prompt_cache`
        self._decoding = False
        self._counters = BatchCounters()
        self._condition = threading.Condition()
        self._scheduled = False

    # Any thread

    def submit(self, request: Request) -> None:
        """Queue a request. Raises BusyError if too many are waiting."""
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
        """Schedule an iteration unless one is scheduled or there is no request."""
        with self._condition:
            if self._scheduled or self._idle:
                return
            self._scheduled = True
        self._thread.post(self._run_iteration)

    def drain(self, timeout: float | None) -> bool:
        """Refuse new requests and wait for all to end; False on `timeout` (s)."""
        error = BusyError("the model is shutting down: use another one", MIN_RETRY_S)
        self._waiting.close(error)
        with self._condition:
            return self._condition.wait_for(lambda: self._idle, timeout)

    @property
    def statistics(self) -> BatchStatistics:
        """Counts since the model was loaded, and of this moment."""
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

    # Engine thread

    def close(self, error: Exception) -> None:
        """End every request as cancelled; later `submit` calls raise `error`."""
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
        except Exception as error:  # no caller waits for an iteration
            log.exception("a scheduler iteration failed")
            for request in [*self._running, *self._waiting.requests()]:
                self._finish(request, as_model_error(error, "served requests"))
        finally:
            with self._condition:
                self._scheduled = False
                self._condition.notify_all()
            if not self._thread.closed and not blocked_on_masks(self._running):
                self.wake()

    def _finish_cancelled(self) -> None:
        for request in [*self._running, *self._waiting.requests()]:
            if request.cancelled:
                self._finish(request)

    def _preempt_to_fit(self) -> None:
        """Preempt the newest until the rest fit; then shrink the prompt cache."""
        while len(self._running) > 1 and not self.kv_budget.fits(self._next_lengths()):
            self._preempt(self._running[-1])
        self._shrink_prompt_cache()

    def _next_lengths(self) -> list[int]:
        """The lengths of the running sequences, with one more token each."""
        return [request.length + 1 for request in self._running]

    def _shrink_prompt_cache(self) -> None:
        """Make the prompt cache leave room for the running sequences to grow."""
        total = self.kv_budget.total_bytes(self._next_lengths())
        if self.kv_budget.capacity is None or total == self._reserved_bytes:
            return
        self._reserved_bytes = total
        leases = [r.lease for r in self._running if r.lease is not None]
        in_use = sum(lease.cache.nbytes for lease in leases)
        self._prompts().shrink(self.kv_budget.capacity - max(0, total - in_use))

    def _preempt(self, request: Request) -> None:
        """Return the cache of a request and put it at the front of the queue."""
        self._remove_running(request)
        with self._isolate_errors(request):
            if request.sequence is not None and request.lease is not None:
                request.sequence.preempt()
                lease, request.lease = request.lease, None
                lease.release()
            self._counters.add(paused=1)
            self._waiting.put_front(request)

    def _admit(self) -> None:
        """Admit waiting requests in order while there is room for them to grow."""
        while (request := self._waiting.peek()) is not None:
            if not self._admission.admits(self._running, request):
                return
            if not self._running:
                mx.reset_peak_memory()
            self._running.append(
                request
            )  # before it leaves the queue, so that `_idle` stays False
            self._prefill_queue.add(request)
            self._waiting.remove(request)

    def _prefill(self) -> None:
        """Prefill one chunk in total, from as many prompts as it takes."""
        done, smallest = 0, min(MIN_CHUNK, self._chunk)
        while (left := self._prefill_budget - done) >= smallest:
            request = self._prefill_queue.pop()
            if request is None:
                return
            with self._isolate_errors(request):
                done += self._prefill_request(request, min(left, self._chunk))

    @property
    def _prefill_budget(self) -> int:
        """The most prompt tokens to prefill before the next decode step."""
        if any(request.state == DECODE for request in self._running):
            return max(MIN_CHUNK, self._chunk // BUSY_CHUNK_DIVISOR)
        return self._chunk

    def _prefill_request(self, request: Request, size: int) -> int:
        """Prefill up to `size` tokens; return how many, or 1 if none was left."""
        sequence = request.sequence
        if sequence is None or request.lease is None:
            sequence = self._attach_cache(request)
        try:
            count = sequence.prefill(size) if sequence.prefilling else 1
        except Exception as error:
            raise as_model_error(error, "processed the prompt") from error
        if sequence.prefilling:
            self._prefill_queue.add(request)
        total = len(request.ids)
        request.on_progress(min(sequence.cache.offset, total), total)
        return count

    def _attach_cache(self, request: Request) -> Sequence:
        """Lease the cache with the longest known prefix; start or resume there."""
        sequence = request.sequence
        lookahead = [] if sequence is None else sequence.lookahead_ids
        lease = self._prompts().acquire(
            [*request.token_ids, *lookahead], shared=request.shared
        )
        if sequence is None:
            self._counters.add(
                prompt_tokens=len(request.ids), cached_tokens=lease.cached_tokens
            )
        return request.attach(lease)

    def _decode(self) -> None:
        """Give every decoding request its next token."""
        self._decoding = True
        try:
            for request, sequence in self._run_decode_step():
                if request.state != DECODE:
                    continue
                with self._isolate_errors(request):
                    step = sequence.complete_step()
                    self._counters.add(completion_tokens=1)
                    # The last step is reported in any case: statistics rely on it.
                    if sequence.finished or not request.cancelled:
                        request.on_step(step)
        finally:
            self._decoding = False
        for request in [r for r in self._running if r.sequence and r.sequence.finished]:
            self._finish(request)

    def _run_decode_step(self) -> list[tuple[Request, Sequence]]:
        """Run the model on one token of each ready request; sample the next tokens."""
        ready: list[DecodeInput] = []
        isolate = self._isolate_errors
        rows = [
            (request, request.sequence)
            for request in ready_to_decode(self._running, isolate, self.wake)
            if request.sequence is not None
        ]
        self._decode_step.sample_waiting(rows, isolate)
        for request, sequence in rows:
            if request.state != ENDED:
                with isolate(request):
                    ready.append(DecodeInput(request, sequence, sequence.next_input()))
        batch = [row for row in ready if row.token is not None]
        try:
            if batch:
                self._counters.record_batch_size(len(batch))
                self._decode_step.run(batch, isolate)
        except Exception as error:
            for row in batch:
                self._finish(row.request, as_model_error(error, "decoded"))
        for request, sequence, token in ready:
            if token is None and request.state == DECODE:
                sequence.sample_next(None)
        return [(request, sequence) for request, sequence, _ in ready]

    @contextmanager
    def _isolate_errors(self, request: Request) -> Iterator[None]:
        """Make an error inside end this request only."""
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
        """End a request: return its cache and call `on_end`, once and last."""
        if request.state == ENDED:  # a callback may have closed everything
            return
        lease, sequence = request.lease, request.sequence
        cancelled = error is None and not (sequence and sequence.finished)
        if sequence is not None and error is None:
            sequence.finish(CANCELLED)  # unless it ended by itself
            self._counters.record_duration(time.perf_counter() - request.start_time)
        request.finish()
        if lease is not None:
            # During a decode step the cache holds tokens that are not reported yet.
            if error is not None or self._decoding:
                lease.discard(non_finite=isinstance(error, NonFiniteError))
            else:
                lease.release()
        self._counters.add(
            failed=error is not None,
            cancelled=cancelled,
            finished=not (cancelled or error),
        )
        try:
            request.on_end(request.stats, error)
        except Exception:
            log.exception("`on_end` of a request failed")
        self._remove_running(request)
        self._waiting.remove(request)
