"""Continuous batching: each iteration is a forward pass for all running requests.

A pass takes the next token of every sequence that decodes, and chunks of prompts. An
iteration is one piece of work of the engine thread, which queues the next one after
any other work submitted meanwhile, so that work waits for at most a pass. Requests come
from any thread; prompts to prefill ahead have their turn when no request can go on.

An error caused by one request (its guide, its callbacks, logits that are not finite)
ends only that request. An error of the model ends all that were being computed; waiting
requests are still served.
"""

import logging
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from mlx_gptoss.engine.interfaces import LanguageModel, TokenIds
from mlx_gptoss.engine.loaded_adapters import LoadedAdapters
from mlx_gptoss.engine.loop_calls import LoopCalls
from mlx_gptoss.engine.prompt_cache import BackgroundPrefill, LazyPromptCache
from mlx_gptoss.engine.prompt_cache.known_prompts import NO_ADAPTER
from mlx_gptoss.engine.scheduler.admission import Admission
from mlx_gptoss.engine.scheduler.batch import Batch
from mlx_gptoss.engine.scheduler.cache_memory import CacheMemory
from mlx_gptoss.engine.scheduler.forward_pass import as_model_error
from mlx_gptoss.engine.scheduler.generation import Generation
from mlx_gptoss.engine.scheduler.idle_work import IdlePrompt, IdleWork
from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.lifecycle import Lifecycle
from mlx_gptoss.engine.scheduler.masks import blocked_on_masks
from mlx_gptoss.engine.scheduler.options import BatchOptions
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.engine.scheduler.sampling import ErrorScope
from mlx_gptoss.engine.scheduler.statistics import (
    MIN_RETRY_S,
    BatchCounters,
    BatchStatistics,
)
from mlx_gptoss.engine.scheduler.waiting_queue import WaitingQueue
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.errors import BusyError, GptOssError
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
        self._counters = BatchCounters()

        def make_batch(isolate: ErrorScope) -> Batch:
            return Batch(
                model,
                prompts,
                self._counters,
                isolate,
                self.wake,
                self._loop_calls.deliver,
                adapters=adapters,
                chunk=chunk,
                fairness=options.fairness,
            )

        self._lifecycle = Lifecycle(
            make_batch,
            self._waiting,
            self._admission,
            CacheMemory(kv_budget, prompts),
            self._counters,
            adapters,
            self._loop_calls.deliver,
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
            if self._scheduled or not (self._lifecycle.all or len(self._idle_work)):
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
            self._lifecycle.finish_cancelled()
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
        admitted = len(self._lifecycle.running) + len(self._lifecycle.stalled)
        return self._counters.snapshot(running=admitted, waiting=len(self._waiting))

    @property
    def _drained(self) -> bool:
        return all(one.request.patient for one in self._lifecycle.all)

    def _refusal(self, sequence: Sequence, queued: list[Sequence]) -> BusyError | None:
        running = list(self._lifecycle.running)
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
        for sequence in self._lifecycle.all:
            self._lifecycle.finish(sequence)
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
        lifecycle, self._iterating = self._lifecycle, True
        try:
            lifecycle.finish_cancelled()
            lifecycle.resume_readers()
            lifecycle.preempt_to_fit()
            lifecycle.admit()
            lifecycle.leave_slow_readers()
            if lifecycle.running:
                lifecycle.batch.run_pass(lifecycle.running)
                for sequence in [x for x in lifecycle.running if x.finished]:
                    lifecycle.finish(sequence)
            elif len(self._idle_work) and not lifecycle.has_pinned:
                self._idle_work.step()
        except Exception as error:  # no caller waits for an iteration
            log.exception("a scheduler iteration failed")
            for sequence in lifecycle.all:
                lifecycle.finish(sequence, as_model_error(error, "served requests"))
        finally:
            self._iterating = False
            self._loop_calls.deliver()

    @property
    def _can_go_on(self) -> bool:
        """Whether another iteration would find something to do."""
        lifecycle = self._lifecycle
        if lifecycle.running:
            return not blocked_on_masks(lifecycle.running)
        idle = len(self._idle_work) and not lifecycle.has_pinned
        return bool(len(self._waiting) or idle)
