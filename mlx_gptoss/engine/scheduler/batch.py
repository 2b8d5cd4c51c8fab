"""The batch: one forward pass for all running sequences, and what follows from it.

Decides what is in a pass: the next token of each sequence whose mask is there, and
prompt chunks, as many tokens of them as leave the others their pace. Knows nothing of
queues, memory or readers.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.loaded_adapters import LoadedAdapters
from mlx_gptoss.engine.prompt_cache import LazyPromptCache, PinnedLease
from mlx_gptoss.engine.rows import Row
from mlx_gptoss.engine.sampler import Sampler
from mlx_gptoss.engine.scheduler.forward_pass import (
    ForwardPass,
    PassRow,
    as_model_error,
)
from mlx_gptoss.engine.scheduler.masks import ready_to_decode
from mlx_gptoss.engine.scheduler.prefill_pace import PrefillPace
from mlx_gptoss.engine.scheduler.prefill_queue import PrefillQueue
from mlx_gptoss.engine.scheduler.sampling import ErrorScope, sample
from mlx_gptoss.engine.scheduler.statistics import BatchCounters
from mlx_gptoss.engine.sequence import DECODE, PREFILL, Sequence


class Batch:
    """Runs passes. `isolate(sequence)` makes an error end that sequence only.

    `wake` is called when a mask that was waited for arrives, `reported` when the steps
    of a pass, or what it read of prompts, have been. `chunk` is the most prompt tokens
    per pass, `fairness` the share of its pace that an answer keeps while prompts
    are read. `clock` returns seconds.
    """

    def __init__(
        self,
        model: Callable[[], LanguageModel],
        prompts: LazyPromptCache,
        counters: BatchCounters,
        isolate: ErrorScope,
        wake: Callable[[], None],
        reported: Callable[[], None],
        *,
        adapters: LoadedAdapters,
        chunk: int,
        fairness: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pace = PrefillPace(chunk, fairness)
        self._clock = clock
        self._prompts = prompts
        self._counters = counters
        self._isolate = isolate
        self._wake = wake
        self._reported = reported
        self._forward_pass = ForwardPass(model, adapters)
        self._sampler = Sampler()
        self._prefill_queue = PrefillQueue()

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in; its prompt is read after those of others."""
        if sequence.state != DECODE:
            self._prefill_queue.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Leave a sequence out of later passes."""
        self._prefill_queue.remove(sequence)

    def clear(self) -> None:
        """Release the arrays of the last pass."""
        self._forward_pass.clear()

    def run_pass(self, running: list[Sequence]) -> None:
        """Prefill a little and decode one token of each sequence that can."""
        start = self._clock()
        self._attach_caches()
        steps = self._begin_steps(running)
        chunks = list(self._next_chunks(self._prompt_budget(running, steps)))
        decoding = steps
        if chunks:  # a first token does not wait for the prompts of others
            first = [row for row in steps if not row.sequence.tokens]
            decoding = [row for row in steps if row.sequence.tokens]
            self._run_steps(first, [])
        self._run_steps(decoding, chunks)
        self._pace.record(
            decoding=sum(row.token is not None for row in steps),
            prompt_tokens=sum(len(row.chunk) for row in chunks),
            seconds=self._clock() - start,
        )

    def _run_steps(self, decoding: list[PassRow], chunks: list[PassRow]) -> None:
        """Start the passes of some rows, and report the steps of those that decode."""
        rows = [*(row for row in decoding if row.token is not None), *chunks]
        for group in group_rows(rows):
            self._start(group)
        self._complete_steps([row.sequence for row in decoding])
        self._reported()
        if chunks:
            self._record_chunks(rows)
            self._reported()

    def _attach_caches(self) -> None:
        """Give a cache to each prompt that need not wait for another's prefix."""
        while (sequence := self._prefill_queue.next_to_attach()) is not None:
            with self._isolate(sequence):
                self._attach_cache(sequence)
            if sequence.lease is None:  # it has ended
                self._prefill_queue.remove(sequence)

    def _next_chunks(self, budget: int) -> Iterator[PassRow]:
        """Yield the prompt chunks of this pass, from as many prompts as it takes."""
        left, taken = budget, list[Sequence]()
        while left >= self._pace.smallest:
            sequence = self._prefill_queue.next(taken)
            if sequence is None:
                return
            taken.append(sequence)
            with self._isolate(sequence):
                chunk = sequence.next_chunk(left)
                left -= max(1, len(chunk))
                if chunk:
                    yield PassRow(sequence, chunk)
                else:  # it resumes, and all of it is cached
                    self._prefill_queue.remove(sequence)

    def _prompt_budget(self, running: list[Sequence], steps: list[PassRow]) -> int:
        """Return the most prompt tokens of a pass with these steps."""
        reading = sum(1 for _ in self._prefill_queue)
        if not reading:
            return 0
        # Those that wait for a mask will decode soon.
        decoding = len(steps) or sum(one.state == DECODE for one in running)
        size = self._pace.next_chunk(reading=reading, decoding=decoding)
        return size if steps else max(size, self._pace.smallest)

    def _attach_cache(self, sequence: Sequence) -> None:
        """Lease the cache with the longest known prefix; start or resume there."""
        request = sequence.request
        if sequence.pinned:
            sequence.attach(PinnedLease(request.cache))
            return
        starts, prompts = sequence.stats is None, self._prompts.open()
        if request.keep and sequence.scorer is None:  # which needs all of the prompt
            lease = prompts.acquire(
                sequence.lookup_ids(),
                adapter=sequence.adapter_digest,
                shared=request.shared,
            )
        else:
            lease = prompts.acquire_empty()
        if starts:
            self._counters.add(
                prompt_tokens=len(request.ids), cached_tokens=lease.cached_tokens
            )
        sequence.attach(lease)

    def _begin_steps(self, running: list[Sequence]) -> list[PassRow]:
        """Return a row for each sequence that decodes; sample what was not yet."""
        ready = ready_to_decode(running, self._isolate, self._wake)
        late = [sequence for sequence in ready if sequence.sampled is None]
        if late:
            sample(self._sampler, late, self._isolate)
        ready = [sequence for sequence in ready if sequence.sampled is not None]
        return [PassRow(sequence, [], sequence.feed()) for sequence in ready]

    def _start(self, rows: list[PassRow]) -> None:
        """Start a pass, and sample after it."""
        rows.sort(key=lambda row: (row.token is None, not row.needs_logits))
        tokens = sum(row.token is not None for row in rows)
        if tokens:
            self._counters.record_batch_size(tokens)
        for row in rows:
            row.sequence.in_pass = True
        try:
            logits = self._forward_pass.start(rows)
        except Exception as error:
            self._fail(rows, error)
            return
        if logits is None:
            return
        following = [row.sequence for row in rows[: logits.shape[0]]]
        for r, sequence in enumerate(following):
            sequence.logits = Row(logits, r)
        sample(self._sampler, following, self._isolate)

    def _fail(self, rows: Iterable[PassRow], error: Exception) -> None:
        """End all sequences of a pass that failed."""
        decoded = any(row.token is not None for row in rows)
        named = as_model_error(error, "decoded" if decoded else "processed the prompt")
        for row in rows:
            with self._isolate(row.sequence):
                raise named

    def _complete_steps(self, sequences: list[Sequence]) -> None:
        """Wait for the tokens that were fed, and report them."""
        for sequence in sequences:
            if sequence.ended:
                continue
            with self._isolate(sequence):
                step = sequence.complete_step()
                self._counters.add(completion_tokens=1)
                # The last step is reported in any case: statistics rely on it.
                if sequence.finished or not sequence.cancelled:
                    assert sequence.stats is not None
                    sequence.request.on_step(step, sequence.stats)

    def _record_chunks(self, rows: list[PassRow]) -> None:
        """Wait for the pass; note what of the prompts is in the caches now."""
        try:
            self._forward_pass.wait()
        except Exception as error:
            self._fail(rows, error)
        for sequence, chunk in [(row.sequence, row.chunk) for row in rows if row.chunk]:
            if sequence.ended:
                continue
            with self._isolate(sequence):
                sequence.record_chunk(chunk)
                self._prefill_queue.remove(sequence)
                if sequence.state == PREFILL:
                    self._prefill_queue.add(sequence)
                else:
                    sequence.end_prompt()
                request = sequence.request
                if request.on_progress is not None:
                    request.on_progress(sequence.prefilled, len(request.ids))


def group_rows(rows: list[PassRow]) -> list[list[PassRow]]:
    """Group rows by pass: one for all caches of the prompt cache, one per pinned cache.

    A cache of the caller need not be of the kind that a batch shares.
    """
    batched = [row for row in rows if not row.sequence.pinned]
    alone = [[row] for row in rows if row.sequence.pinned]
    return [batched, *alone] if batched else alone
