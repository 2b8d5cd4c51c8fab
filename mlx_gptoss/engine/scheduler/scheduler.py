"""Continuous batching: each iteration is a forward pass for all running requests.

A pass takes the next token of every sequence that decodes, and chunks of prompts. An
iteration is one piece of work of the engine thread, which queues the next one after
any other work submitted meanwhile, so that work waits for at most a pass. Requests come
from any thread; prompts to prefill ahead have their turn when no request can go on.

If the keys and values of all running requests would not fit, the newest is preempted:
its cache goes back to the prompt cache, and it resumes later with the same tokens. One
whose reader has fallen behind leaves the batch until the reader catches up; it keeps
its cache, and is the first to be preempted.

An error caused by one request (its guide, its callbacks, logits that are not finite)
ends only that request. An error of the model ends all that were being computed; waiting
requests are still served.
"""

import logging
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import mlx.core as mx

from mlx_gptoss.engine.interfaces import LanguageModel, TokenIds
from mlx_gptoss.engine.loaded_adapters import LoadedAdapters
from mlx_gptoss.engine.loop_calls import LoopCalls
from mlx_gptoss.engine.outputs import CANCELLED
from mlx_gptoss.engine.prompt_cache import BackgroundPrefill, LazyPromptCache
from mlx_gptoss.engine.prompt_cache.known_prompts import NO_ADAPTER
from mlx_gptoss.engine.scheduler.admission import Admission
from mlx_gptoss.engine.scheduler.batch import Batch
from mlx_gptoss.engine.scheduler.cache_memory import CacheMemory
from mlx_gptoss.engine.scheduler.forward_pass import as_model_error
from mlx_gptoss.engine.scheduler.generation import Generation
from mlx_gptoss.engine.scheduler.idle_work import IdlePrompt, IdleWork
from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.masks import blocked_on_masks
from mlx_gptoss.engine.scheduler.options import BatchOptions
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.engine.scheduler.statistics import (
    MIN_RETRY_S,
    BatchCounters,
    BatchStatistics,
)
from mlx_gptoss.engine.scheduler.waiting_queue import WaitingQueue
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.errors import BusyError, GptOssError, NonFiniteError
from mlx_gptoss.memory import PREFILL_CHUNK

T = TypeVar("T")

log = logging.getLogger(__name__)


class Scheduler:
    """Runs requests in a batch.

    `submit`, `prepare`, `call_in_loop`, `wake`, `drain` and `statistics` are for any
    thread, the rest for the engine thread. `chunk` is the most prompt tokens per
    iteration.
    """

    def __init__(
        self,
        thread: EngineThread,
        model: Callable[[], LanguageModel],
        prompts: LazyPromptCache,
        options: BatchOptions,
        kv_budget: KVBudget,
        adapters: LoadedAdapters,
        *,
        chunk: int = PREFILL_CHUNK,
    ) -> None:
        self.kv_budget = kv_budget
        self.prompts = prompts
        self._loop_calls = LoopCalls()
        self._adapters = adapters
        self._thread = thread
        self._waiting = WaitingQueue()
        self._admission = Admission(options, kv_budget)
        self._memory = CacheMemory(kv_budget, prompts)
        self._counters = BatchCounters()
        self._running: list[Sequence] = []  # in order of admission
        self._stalled: list[Sequence] = []  # admitted, but their readers are behind
        self._batch = Batch(
            model,
            prompts,
            self._counters,
            self._isolate_errors,
            self.wake,
            self._loop_calls.deliver,
            adapters=adapters,
            chunk=chunk,
            fairness=options.fairness,
        )
        self._idle_work = IdleWork(self._prefill_ahead)
        self._condition = threading.Condition()
        self._scheduled = False
        self._iterating = False
        self._closed = False

    # Any thread

    def submit(self, request: Request) -> Generation:
        """Queue a request. Raises BusyError if too many are waiting.

        Raises ConfigError if its adapter is not loaded.
        """
        sequence = Sequence(request, self._adapters.acquire(request.adapter))
        try:
            self._waiting.put(sequence, partial(self._refusal, sequence))
        except Exception as error:
            self._adapters.release(sequence.adapter)
            self._counters.add(refused=isinstance(error, BusyError))
            raise
        self._counters.add(requests=1)
        self.wake()
        return Generation(self, sequence)

    def position(self, sequence: Sequence) -> int:
        """Return the place of a sequence in the queue; 0 if it is not in it."""
        return self._waiting.position(sequence)

    def prepare(self, ids: TokenIds, adapter: str | None = None) -> "Future[None]":
        """Prefill `ids` in idle time; the future is cancelled if that cannot be.

        Raises ConfigError as `submit` does.
        """
        prompt = IdlePrompt(ids, self._adapters.acquire(adapter))
        future: Future[None] = Future()
        future.add_done_callback(lambda _: self._adapters.release(prompt.adapter))

        def add() -> None:
            self._idle_work.add(future, prompt)
            self.wake()

        def added(posted: "Future[None]") -> None:
            if posted.exception() is not None:  # the engine closed before
                future.cancel()

        self._thread.post(add).add_done_callback(added)
        return future

    def wake(self) -> None:
        """Schedule an iteration unless one is scheduled or there is nothing to do."""
        with self._condition:
            if self._scheduled or not (self._sequences or len(self._idle_work)):
                return
            self._scheduled = True
        self._thread.post(self._run_iteration)

    def call_in_loop(
        self, loop: AbstractEventLoop, call: Callable[..., object], *arguments: Any
    ) -> None:
        """Call a function in an event loop, if that is still open.

        Callbacks of requests have it called with the others of the pass.
        """
        if self._thread.is_current and self._iterating:
            self._loop_calls.add(loop, call, *arguments)
        else:
            with suppress(RuntimeError):  # it is closed: nobody waits
                loop.call_soon_threadsafe(call, *arguments)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the engine thread."""
        return self._thread.is_current

    def wait_for_entry(self, entries: "SimpleQueue[T]") -> T:
        """Return the next entry of a queue that callbacks of a request fill.

        The engine thread, which cannot wait, runs iterations. Raises GptOssError within
        a callback.
        """
        while self._thread.is_current and entries.empty():
            if self._iterating:
                raise GptOssError(
                    "a callback of the engine cannot wait for another answer: read it "
                    "in another thread"
                )
            self._iterate()
        return entries.get()

    def wait_for_end(self, ended: threading.Event) -> None:
        """Wait for the end of a request that was cancelled."""
        if self._thread.is_current:
            self._finish_cancelled()
        else:
            ended.wait()

    def drain(self, timeout: float | None) -> bool:
        """Refuse new requests and wait for all to end; False on `timeout` (s).

        Patient requests are neither refused nor waited for.
        """
        error = BusyError("the model is shutting down: use another one", MIN_RETRY_S)
        self._waiting.drain(error)
        with self._condition:
            return self._condition.wait_for(lambda: self._drained, timeout)

    @property
    def statistics(self) -> BatchStatistics:
        """Counts since the model was loaded, and of this moment."""
        return self._counters.snapshot(
            running=len(self._running) + len(self._stalled), waiting=len(self._waiting)
        )

    @property
    def _sequences(self) -> list[Sequence]:
        return [*self._running, *self._stalled, *self._waiting.all()]

    @property
    def _drained(self) -> bool:
        return all(one.request.patient for one in self._sequences)

    def _refusal(self, sequence: Sequence, queued: list[Sequence]) -> BusyError | None:
        running = list(self._running)
        return self._admission.refusal(
            sequence, running, queued, lambda: self._counters.retry_after(len(running))
        )

    # Engine thread

    def close(self, error: Exception) -> None:
        """End every request as cancelled; later `submit` calls raise `error`.

        Saves and releases the prompt cache.
        """
        self._closed = True
        self._waiting.close(error)
        for sequence in self._sequences:
            self.finish(sequence)
        self._idle_work.cancel()
        self.prompts.close()
        with self._condition:
            self._condition.notify_all()

    def _prefill_ahead(self, prompt: IdlePrompt) -> BackgroundPrefill:
        adapter = prompt.adapter
        digest = NO_ADAPTER if adapter is None else adapter.digest
        slot = self._adapters.slot(adapter)
        return self.prompts.prefill_ahead(prompt.ids, digest, slot)

    def _run_iteration(self) -> None:
        if self._closed:  # after this iteration was scheduled
            return
        with self._condition:
            self._scheduled = False
        self._iterate()
        with self._condition:
            self._condition.notify_all()
        if not self._closed and self._can_go_on:
            self.wake()

    def _iterate(self) -> None:
        self._iterating = True
        try:
            self._finish_cancelled()
            self._resume_readers()
            self._preempt_to_fit()
            self._admit()
            self._leave_slow_readers()
            if self._running:
                self._batch.run_pass(self._running)
                for sequence in [x for x in self._running if x.finished]:
                    self.finish(sequence)
            elif len(self._idle_work) and not self._has_pinned:
                self._idle_work.step()
        except Exception as error:  # no caller waits for an iteration
            log.exception("a scheduler iteration failed")
            for sequence in self._sequences:
                self.finish(sequence, as_model_error(error, "served requests"))
        finally:
            self._iterating = False
            self._loop_calls.deliver()

    @property
    def _can_go_on(self) -> bool:
        """Whether another iteration would find something to do."""
        if self._running:
            return not blocked_on_masks(self._running)
        return bool(
            len(self._waiting) or (len(self._idle_work) and not self._has_pinned)
        )

    @property
    def _has_pinned(self) -> bool:
        """Whether a reader that gets each step when it asks may ask soon."""
        return any(one.pinned for one in self._stalled)

    def _finish_cancelled(self) -> None:
        for sequence in self._sequences:
            poll = sequence.request.cancelled
            if sequence.cancelled:
                self.finish(sequence)
            elif poll is not None:
                with self._isolate_errors(sequence):
                    if poll():
                        self.finish(sequence)

    def _resume_readers(self) -> None:
        """Queue the sequences whose readers have caught up, before all others."""
        for sequence in [one for one in self._stalled if one.caught_up]:
            self._waiting.put_front(sequence)
            self._stalled.remove(sequence)
            sequence.stalled = False

    def _leave_slow_readers(self) -> None:
        """Take the sequences out of the batch whose readers are behind."""
        for sequence in [one for one in self._running if one.too_far_ahead]:
            # Set before the reader is looked at again, who wakes a stalled one.
            sequence.stalled = True
            if sequence.caught_up:
                sequence.stalled = False
                continue
            self._stalled.append(sequence)
            self._remove_running(sequence)

    @property
    def _holding(self) -> list[Sequence]:
        """The sequences that hold, or will soon hold, a cache of the prompt cache.

        In the order in which they keep it: those that wait for readers come last.
        """
        stalled = [one for one in self._stalled if one.lease is not None]
        return [one for one in (*self._running, *stalled) if not one.pinned]

    def _preempt_to_fit(self) -> None:
        """Preempt the last to keep a cache until the rest fit."""
        while len(self._holding) > 1 and not self._memory.fits(self._holding):
            self._preempt(self._holding[-1])
        self._memory.shrink_prompt_cache(self._holding)

    def _preempt(self, sequence: Sequence) -> None:
        """Return the cache of a sequence; put it at the front of the queue.

        One that waits for its reader is queued when the reader catches up.
        """
        self._remove_running(sequence)
        with self._isolate_errors(sequence):
            lease = sequence.detach()
            if lease is not None:
                lease.release()
            self._counters.add(paused=1)
            if not sequence.stalled:
                self._waiting.put_front(sequence)

    def _admit(self) -> None:
        """Admit waiting sequences in order while there is room for them to grow."""
        for sequence in [one for one in self._waiting.all() if one.pinned]:
            self._start(sequence)
        while (sequence := self._waiting.peek()) is not None:
            batch = [one for one in self._running if not one.pinned]
            if not self._admission.has_place(batch):
                return
            if sequence.lease is None and not self._make_room(sequence):
                return
            self._start(sequence)

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempt what waits for readers until a sequence fits, if it can."""
        while not self._admission.has_memory(self._holding, sequence):
            newest = self._holding[-1]
            if not newest.stalled:
                return False
            self._preempt(newest)
        return True

    def _start(self, sequence: Sequence) -> None:
        if not self._running:
            mx.reset_peak_memory()
        # Before it leaves the queue, so that it is always found in one of them.
        self._running.append(sequence)
        self._batch.add(sequence)
        self._waiting.remove(sequence)

    @contextmanager
    def _isolate_errors(self, sequence: Sequence) -> Iterator[None]:
        """Make an error inside end this sequence only."""
        try:
            yield
        except Exception as error:
            self.finish(sequence, error)

    def _remove_running(self, sequence: Sequence) -> None:
        self._batch.remove(sequence)
        if sequence in self._running:
            self._running.remove(sequence)
        if not self._running:
            self._batch.clear()

    def finish(self, sequence: Sequence, error: Exception | None = None) -> None:
        """End a sequence: return its cache and call `on_end`, once and last."""
        if sequence.ended:  # a callback may have closed everything
            return
        cancelled = error is None and not sequence.finished
        if sequence.stats is not None and error is None:
            self._counters.record_duration(time.perf_counter() - sequence.start_time)
        lease = sequence.end(None if error else CANCELLED)
        if lease is not None:
            # During a pass the cache holds tokens that are not recorded yet.
            if error is not None or sequence.in_pass:
                lease.discard(non_finite=isinstance(error, NonFiniteError))
            else:
                lease.release()
        self._counters.add(
            failed=error is not None,
            cancelled=cancelled,
            finished=not (cancelled or error),
        )
        try:
            sequence.request.on_end(sequence.stats, error)
        except Exception:
            log.exception("`on_end` of a request failed")
        self._loop_calls.deliver()
        self._adapters.release(sequence.adapter)
        self._remove_running(sequence)
        if sequence in self._stalled:
            self._stalled.remove(sequence)
        self._waiting.remove(sequence)
