"""The Steps of one answer, read in any thread while the engine computes ahead.

A reader waits in `next`, for a limited time in `wait`, or, in an event loop, for the
call that `ready` asks for.
"""

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple, Self

from mlx_gptoss.engine.outputs import CANCELLED, Statistics, Step
from mlx_gptoss.engine.prompt_logprobs import PromptLogprobs
from mlx_gptoss.engine.scheduler import Generation, Request, Scheduler


class StreamEnd(NamedTuple):
    """The last entry of a queue of steps."""

    error: BaseException | None


class StepQueue:
    """Steps on their way from the engine thread to a reader."""

    def __init__(self) -> None:
        self.entries: SimpleQueue[tuple[Step, Statistics] | StreamEnd] = SimpleQueue()
        self.ended = threading.Event()
        self.prompt_logprobs: PromptLogprobs | None = None
        self._lock = threading.Lock()
        self._listener: Callable[[], object] | None = None
        self._awaited = 1  # entries that the listener waits for

    def put(self, step: Step, stats: Statistics) -> None:
        """Append a step, with the statistics up to it."""
        self.entries.put((step, stats))
        self._call_listener()

    def set_prompt(self, logprobs: PromptLogprobs) -> None:
        """Keep the log-probabilities of the prompt, before the first step."""
        self.prompt_logprobs = logprobs

    def end(self, stats: Statistics | None, error: BaseException | None) -> None:
        """Append the end; if the answer was cancelled, drop the steps before it.

        A reader who waits for several steps gets those that came.
        """
        cancelled = stats is None or stats.finish_reason == CANCELLED
        dropped = cancelled and error is None and self._listener is None
        while dropped and not self.entries.empty():
            try:
                self.entries.get_nowait()
            except Empty:  # the reader was faster
                break
        self.entries.put(StreamEnd(error))
        self.ended.set()
        self._call_listener()

    def listen(self, listener: Callable[[], object], count: int = 1) -> bool:
        """Say whether there are `count` entries, or the end.

        If not, call `listener` when they have come.
        """
        with self._lock:
            if self.entries.qsize() >= count or self.ended.is_set():
                return True
            self._listener, self._awaited = listener, count
            return False

    def _call_listener(self) -> None:
        """Call the listener, unless it waits for more entries."""
        with self._lock:
            if self.entries.qsize() < self._awaited and not self.ended.is_set():
                return
            listener, self._listener = self._listener, None
        if listener is not None:
            listener()


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
        self._steps = 0  # read so far
        self._stats: Statistics | None = None  # up to the step read last
        self._computed_ids: tuple[int, ...] = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        scheduler = self._scheduler
        if scheduler is None:
            raise StopIteration
        try:
            if not self._ask():
                raise StopIteration
            entry = scheduler.wait_for_entry(self._queue.entries)
        except BaseException:  # the reader was interrupted, or cancels
            self.close()
            raise
        step = self._accept(entry)
        if step is None:
            raise StopIteration
        return step

    def take(self) -> Step | None:
        """Return the next step if it is there, else None; raise an error that is.

        Asks for no step, so that it returns those that came before a `cancelled`.
        """
        if self._scheduler is None:
            return None
        try:
            entry = self._queue.entries.get_nowait()
        except Empty:
            return None
        return self._accept(entry)

    def ready(
        self,
        notify: Callable[[], object],
        loop: AbstractEventLoop | None = None,
        count: int = 1,
    ) -> bool:
        """Say whether `next` would return or raise at once.

        If not, `notify` is called once when it would: in `loop`, which is woken once
        for all steps of a pass, or in the engine thread, which it must not block. A
        later `ready` replaces it. With a `count`, that many steps, or the last ones,
        must be there.
        """
        scheduler = self._scheduler
        if loop is not None and scheduler is not None:
            notify = partial(scheduler.call_in_loop, loop, notify)
        try:
            return not self._ask(count) or self._queue.listen(notify, count)
        except BaseException:
            self.close()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait until `next` would return or raise at once; False after `seconds`.

        In the engine thread, where `next` computes, it is True at once.
        """
        if self._scheduler is None or self._scheduler.is_current:
            return True
        ready = threading.Event()
        return self.ready(ready.set) or ready.wait(max(seconds, 0))

    @property
    def closed(self) -> bool:
        """Whether it was read to its end, or closed."""
        return self._scheduler is None

    def cancel(self) -> None:
        """End it within one step, without waiting; `close` waits for that."""
        if self._generation is not None:
            self._generation.cancel()

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
        self.cancel()

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
    def prompt_logprobs(self) -> PromptLogprobs | None:
        """The log-probabilities of the prompt, once it is read, if asked for."""
        return self._queue.prompt_logprobs

    @property
    def queue_position(self) -> int:
        """The place in the queue: 1 is next, 0 is not queued."""
        generation = self._generation
        return 0 if generation is None else generation.position

    @property
    def computed_ids(self) -> tuple[int, ...]:
        """The token ids appended to the cache since the start."""
        return self._generation.computed_ids if self._generation else self._computed_ids

    def _accept(self, entry: "tuple[Step, Statistics] | StreamEnd") -> Step | None:
        """Take an entry of the queue; return its step, None at the end."""
        if not isinstance(entry, StreamEnd):
            step, self._stats = entry
            self._steps += 1
            return step
        self._release(cancelled=entry.error is None)
        if entry.error is not None:
            raise entry.error
        return None

    def _ask(self, count: int = 1) -> bool:
        """Submit the request, and tell the engine how many steps are waited for.

        False if no step will come: it has ended, or the caller cancels.
        """
        scheduler, request = self._scheduler, self._request
        if scheduler is None or request is None:
            return False
        if request.cancelled is not None and request.cancelled():
            return False
        if self._generation is None:
            self._generation = scheduler.submit(request)
        self._generation.read(self._steps + count)
        return True

    def _release(self, *, cancelled: bool) -> None:
        """Keep the figures; release the engine."""
        stats = self.stats
        if cancelled and stats.finish_reason is None:
            stats = replace(stats, finish_reason=CANCELLED)
        self._stats, self._computed_ids = stats, self.computed_ids
        self._scheduler = self._request = self._generation = None
