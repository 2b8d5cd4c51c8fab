"""The life of a sequence in the scheduler: waiting, running, stalled, ended.

If the keys and values of all running sequences would not fit, the newest is preempted:
its cache goes back to the prompt cache, and it resumes later with the same tokens. One
whose reader has fallen behind leaves the batch until the reader catches up; it keeps
its cache, and is the first to be preempted.

For the engine thread, but for reading `running`, `stalled` and `all`. Knows nothing of
threads or iterations; the batch computes.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx

from mlx_gptoss.engine.loaded_adapters import LoadedAdapters
from mlx_gptoss.engine.outputs import CANCELLED
from mlx_gptoss.engine.scheduler.admission import Admission
from mlx_gptoss.engine.scheduler.batch import Batch
from mlx_gptoss.engine.scheduler.cache_memory import CacheMemory
from mlx_gptoss.engine.scheduler.sampling import ErrorScope
from mlx_gptoss.engine.scheduler.statistics import BatchCounters
from mlx_gptoss.engine.scheduler.waiting_queue import WaitingQueue
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.errors import NonFiniteError

log = logging.getLogger(__name__)


class Lifecycle:
    """Moves sequences between the queue, the batch and their ends.

    `make_batch(isolate)` makes the batch, in which an error within `isolate(sequence)`
    ends that sequence only. `reported` is called when an end has been told.
    """

    def __init__(
        self,
        make_batch: Callable[[ErrorScope], Batch],
        waiting: WaitingQueue,
        admission: Admission,
        memory: CacheMemory,
        counters: BatchCounters,
        adapters: LoadedAdapters,
        reported: Callable[[], None],
    ) -> None:
        self.running: list[Sequence] = []  # in order of admission
        self.stalled: list[Sequence] = []  # admitted, but their readers are behind
        self.batch = make_batch(self.isolate_errors)
        self._waiting = waiting
        self._admission = admission
        self._memory = memory
        self._counters = counters
        self._adapters = adapters
        self._reported = reported

    @property
    def all(self) -> list[Sequence]:
        """Every sequence that has not ended."""
        return [*self.running, *self.stalled, *self._waiting.all()]

    @property
    def has_pinned(self) -> bool:
        """Whether a reader that gets each step when it asks may ask soon."""
        return any(one.pinned for one in self.stalled)

    def finish_cancelled(self) -> None:
        """End the sequences that were cancelled, or whose callers say so now."""
        for sequence in self.all:
            poll = sequence.request.cancelled
            if sequence.cancelled:
                self.finish(sequence)
            elif poll is not None:
                with self.isolate_errors(sequence):
                    if poll():
                        self.finish(sequence)

    def resume_readers(self) -> None:
        """Queue the sequences whose readers have caught up, before all others."""
        for sequence in [one for one in self.stalled if one.caught_up]:
            self._waiting.put_front(sequence)
            self.stalled.remove(sequence)
            sequence.stalled = False

    def leave_slow_readers(self) -> None:
        """Take the sequences out of the batch whose readers are behind."""
        for sequence in [one for one in self.running if one.too_far_ahead]:
            # Set before the reader is looked at again, who wakes a stalled one.
            sequence.stalled = True
            if sequence.caught_up:
                sequence.stalled = False
                continue
            self.stalled.append(sequence)
            self._remove_running(sequence)

    @property
    def _holding(self) -> list[Sequence]:
        """The sequences that hold, or will soon hold, a cache of the prompt cache.

        In the order in which they keep it: those that wait for readers come last.
        """
        stalled = [one for one in self.stalled if one.lease is not None]
        return [one for one in (*self.running, *stalled) if not one.pinned]

    def preempt_to_fit(self) -> None:
        """Preempt the last to keep a cache until the rest fit."""
        while len(self._holding) > 1 and not self._memory.fits(self._holding):
            self.preempt(self._holding[-1])
        self._memory.shrink_prompt_cache(self._holding)

    def preempt(self, sequence: Sequence) -> None:
        """Return the cache of a sequence; put it at the front of the queue.

        One that waits for its reader is queued when the reader catches up.
        """
        self._remove_running(sequence)
        with self.isolate_errors(sequence):
            lease = sequence.detach()
            if lease is not None:
                lease.release()
            self._counters.add(paused=1)
            if not sequence.stalled:
                self._waiting.put_front(sequence)

    def admit(self) -> None:
        """Admit waiting sequences in order while there is room for them to grow."""
        for sequence in [one for one in self._waiting.all() if one.pinned]:
            self._start(sequence)
        while (sequence := self._waiting.peek()) is not None:
            batch = [one for one in self.running if not one.pinned]
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
            self.preempt(newest)
        return True

    def _start(self, sequence: Sequence) -> None:
        if not self.running:
            mx.reset_peak_memory()
        # Before it leaves the queue, so that it is always found in one of them.
        self.running.append(sequence)
        self.batch.add(sequence)
        self._waiting.remove(sequence)

    @contextmanager
    def isolate_errors(self, sequence: Sequence) -> Iterator[None]:
        """Make an error inside end this sequence only."""
        try:
            yield
        except Exception as error:
            self.finish(sequence, error)

    def _remove_running(self, sequence: Sequence) -> None:
        self.batch.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        if not self.running:
            self.batch.clear()

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
        self._reported()
        self._adapters.release(sequence.adapter)
        self._remove_running(sequence)
        if sequence in self.stalled:
            self.stalled.remove(sequence)
        self._waiting.remove(sequence)
