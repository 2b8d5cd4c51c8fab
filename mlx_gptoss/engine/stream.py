"""The Steps of one answer, read in any thread while the engine computes ahead."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import NamedTuple, Self

from mlx_gptoss.engine.outputs import CANCELLED, Statistics, Step
from mlx_gptoss.engine.scheduler import Generation, Request, Scheduler


class StreamEnd(NamedTuple):
    """The last entry of a queue of steps."""

    error: BaseException | None


class StepQueue:
    """Steps on their way from the engine thread to a reader."""

    def __init__(self) -> None:
        self.entries: SimpleQueue[tuple[Step, Statistics] | StreamEnd] = SimpleQueue()
        self.ended = threading.Event()

    def put(self, step: Step, stats: Statistics) -> None:
        """Append a step, with the statistics up to it."""
        self.entries.put((step, stats))

    def end(self, stats: Statistics | None, error: BaseException | None) -> None:
        """Append the end; drop the steps before it if the answer was cancelled."""
        cancelled = stats is None or stats.finish_reason == CANCELLED
        while cancelled and error is None and not self.entries.empty():
            try:
                self.entries.get_nowait()
            except Empty:  # the reader was faster
                break
        self.entries.put(StreamEnd(error))
        self.ended.set()


class Stream(Iterator[Step]):
    """An iterator of Steps; `close` (or leaving a `with` block) ends it early.

    Usable in any thread, by one reader at a time. The request is submitted with the
    first step that is asked for. `stats` are those of the steps that were read; the
    engine may have computed further ones ahead. A stream that is forgotten is
    cancelled.
    """

    def __init__(
        self, scheduler: Scheduler, request: Request, steps: StepQueue
    ) -> None:
        self._scheduler: Scheduler | None = scheduler
        self._request: Request | None = request
        self._queue = steps
        self._generation: Generation | None = None
        self._asked = 0  # steps read, or waited for
        self._stats: Statistics | None = None  # up to the step read last
        self._computed_ids: tuple[int, ...] = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        scheduler, request = self._scheduler, self._request
        if scheduler is None or request is None:
            raise StopIteration
        self._asked += 1
        try:
            if request.cancelled is not None and request.cancelled():
                raise StopIteration
            if self._generation is None:
                self._generation = scheduler.submit(request)
            self._generation.read(self._asked)
            entry = scheduler.wait_for_entry(self._queue.entries)
        except BaseException:  # the reader was interrupted, or cancels
            self.close()
            raise
        if not isinstance(entry, StreamEnd):
            step, self._stats = entry
            return step
        self._release(cancelled=entry.error is None)
        if entry.error is not None:
            raise entry.error
        raise StopIteration

    def close(self) -> None:
        """Stop the work, and wait until the KV cache is released."""
        scheduler, generation = self._scheduler, self._generation
        if scheduler is None:
            return
        if generation is not None:
            generation.cancel()
            scheduler.wait_for_end(self._queue.ended)
        self._release(cancelled=True)

    def __del__(self) -> None:
        if self._generation is not None:
            self._generation.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stats(self) -> Statistics:
        """The statistics so far, or of the whole answer once it ended."""
        if self._stats is not None:
            return self._stats
        begun = self._generation.stats if self._generation else None
        if begun is None:
            return Statistics(0, 0)
        seconds = begun.prompt_seconds
        return Statistics(
            begun.prompt_tokens, begun.cached_tokens, prompt_seconds=seconds
        )

    @property
    def computed_ids(self) -> tuple[int, ...]:
        """The token ids appended to the cache since the start."""
        return self._generation.computed_ids if self._generation else self._computed_ids

    def _release(self, *, cancelled: bool) -> None:
        """Keep the figures; release the engine."""
        stats = self.stats
        if cancelled and stats.finish_reason is None:
            stats = replace(stats, finish_reason=CANCELLED)
        self._stats, self._computed_ids = stats, self.computed_ids
        self._scheduler = self._request = self._generation = None
