"""One sequence: prefill of its prompt in chunks, then one token per decode step.

    sequence = Sequence(model, cache, ids, params, limit=100)
    while sequence.prefilling:
        sequence.prefill()
    while not sequence.finished:
        token = sequence.next_input()        # to feed, alone or in a batch
        sequence.sample_next(logits)         # a Row, after that token: sample the next
        step = sequence.complete_step()      # waits for the token that was fed

A caller that samples for several sequences together calls `prepare_next`, a `Sampler`
and `accept_next` before `next_input`, and `prepare_lookahead` and `accept_lookahead`
instead of `sample_next`.

The caller runs the model, so a sequence takes the same steps alone (`generate`) and
in a batch (`scheduler`). Token ids only: knows nothing of text, threads, files or
other sequences.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.interfaces import LanguageModel, TokenGuide, TokenIds
from mlx_gptoss.engine.outputs import LENGTH, Statistics, Step
from mlx_gptoss.engine.rows import Row
from mlx_gptoss.engine.sampler import SampledToken, Sampler, SamplerInput, check_bias
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.token_table import TokenMask
from mlx_gptoss.errors import NonFiniteError, PromptError
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.model.device import use_gpu_paths

SEED_BYTES = 8
# Token n is sampled with the key of seed + n * golden ratio * 2^64, so the keys of
# small seeds do not overlap.
SEED_STRIDE = 0x9E3779B97F4A7C15
SEED_RANGE = 1 << 64
NOT_FINITE = (
    "the model's logits for token {} of the answer are not finite: its weights are "
    "damaged or overflow in this dtype; check them with `mlx-gptoss inspect --deep`, "
    "or try `--dtype float32`"
)
NO_LEGAL_TOKEN = (
    "the constraints allow no token at position {} of the answer: loosen them, or "
    "change `logit_bias`"
)


class Sequence:
    """The state of one answer.

    `ids` are prefilled after what `cache` holds; at most `limit` tokens follow.
    `on_computed(ids)` is called with each run of token ids right after the model has
    appended their keys and values to the cache, before anything later is in it;
    `computed_ids` are all of them. `arrival_time` is when the request came, in seconds
    of `time.perf_counter`; None means now. `sampler` is that of the batch; None makes
    one.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: Any,
        ids: TokenIds,
        params: SamplingParams,
        *,
        limit: int,
        stop_tokens: Mapping[int, str] | None = None,
        guide: TokenGuide | None = None,
        on_computed: Callable[[TokenIds], None] | None = None,
        arrival_time: float | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.model = model
        self.cache: Any = cache
        self.params = params
        self.limit = limit
        self.stop_tokens = dict(stop_tokens or {})
        self.guide = guide
        self.stats = Statistics(cache.offset + len(ids), cache.offset)
        self.computed_ids: list[int] = []
        self.tokens: list[int] = []  # of the answer so far
        self.finished = False
        self._on_computed = on_computed or (lambda ids: None)
        self._remaining = list(ids)
        self._start_time = time.perf_counter()
        self._arrival_time = self._start_time if arrival_time is None else arrival_time
        self._first_token_time = 0.0
        self._sampler = sampler or Sampler()
        self._logits: Row | None = None  # (V,) after the last token fed
        self._next: SampledToken | None = None  # to feed and complete next
        self._lookahead: SampledToken | None = None  # the token after it
        random_seed = int.from_bytes(os.urandom(SEED_BYTES))
        self._seed = random_seed if params.seed is None else params.seed

    @property
    def prefilling(self) -> bool:
        """Whether part of the prompt is still to be prefilled."""
        return bool(self._remaining)

    def prefill(self, size: int = PREFILL_CHUNK) -> int:
        """Prefill the next chunk, at most `size` tokens; return the number of tokens.

        After the last chunk the first token can be sampled. Of the other chunks only
        the cache is evaluated, which saves the experts of the last layer. The
        unembedding is computed for one position.
        """
        part, self._remaining = self._remaining[:size], self._remaining[size:]
        batch = mx.array([part], mx.int32)  # (1, L)
        hidden = self.model.hidden(batch, self.cache, last=True)
        mx.eval(self.cache.arrays if self._remaining else [hidden])
        self._record_computed(part)
        if not self.tokens:  # the time so far, for whoever reports progress
            seconds = time.perf_counter() - self._start_time
            self.stats = replace(self.stats, prompt_seconds=seconds)
        if use_gpu_paths():
            mx.clear_cache()  # chunks differ in size: their buffers pile up
        if not self._remaining and self._next is None:
            self._logits = Row(last_logits(self.model, hidden)[None], 0)
            mx.async_eval(self._logits.batch)
        return len(part)

    @property
    def pending_mask(self) -> "Future[object] | None":
        """The token mask that `next_input` would wait for; None if there is none."""
        if self._next is not None or self.guide is None:
            return None
        pending = self.guide.pending_mask
        return None if pending is None or pending.done() else pending

    def prepare_next(self) -> SamplerInput | None:
        """Return how to sample the token of `next_input`; None if it is sampled.

        Raises PromptError if the guide leaves no legal token.
        """
        if self._next is not None:
            return None
        assert self._logits is not None, "the prompt is not prefilled yet"
        mask = self._mask(self._logits)
        if mask is not None and _allows_nothing(mask):
            raise PromptError(NO_LEGAL_TOKEN.format(len(self.tokens) + 1))
        return self._sampler_input(self._logits, mask, len(self.tokens))

    def accept_next(self, sampled: SampledToken) -> None:
        """Take the token that was sampled from the input of `prepare_next`."""
        self._next = sampled
        if self.guide is not None:
            self.guide.advance(sampled.state)

    def next_input(self) -> SampledToken | None:
        """Return the token to feed next, or None if it is the last one."""
        last = len(self.tokens) + 1 >= self.limit
        sampled = self._next or self._sample_next_input()
        return None if last else sampled

    def sample_next(self, logits: Row | None) -> None:
        """Sample the token after `next_input` from the logits (V,) that follow it.

        Pass None if `next_input` was None.
        """
        sampler_input = self.prepare_lookahead(logits)
        if sampler_input is not None:
            [sampled] = self._sampler.sample([sampler_input])
            self.accept_lookahead(sampled)

    def prepare_lookahead(self, logits: Row | None) -> SamplerInput | None:
        """Take the logits (V,) after `next_input`; return how to sample from them.

        None if no token follows, or if it cannot be sampled yet.
        """
        self._logits, self._lookahead = logits, None
        waits = self.guide is not None and self.guide.needs_last_token
        if logits is None or waits:
            return None
        mask = self._mask(logits)
        if mask is not None and _allows_nothing(mask):
            return None  # `prepare_next` says so, after the token before
        return self._sampler_input(logits, mask, len(self.tokens) + 1)

    def accept_lookahead(self, sampled: SampledToken) -> None:
        """Take the token that was sampled from the input of `prepare_lookahead`."""
        self._lookahead = sampled
        if self.guide is not None:
            self.guide.advance(sampled.state)

    def complete_step(self) -> Step:
        """Wait for the token of `next_input`; return its Step and check for the end.

        Raises NonFiniteError for logits that are NaN or infinite.
        """
        assert self._next is not None
        last = self._logits is None
        step = self._wait_for_step(self._next, last=last)
        again = self.guide is not None and self.guide.accept_token(step.token)
        step = self._apply_guide_finish(step)
        self.tokens.append(step.token)
        self._update_stats(step)
        if not last:
            self._record_computed([step.token])
        self._next = None if again else self._lookahead
        self._lookahead = None
        self.finished = last or step.finish_reason is not None
        return step

    def preempt(self) -> None:
        """Release the cache; `resume` continues with the same tokens.

        A token that is sampled already is fed after that. One that cannot be sampled
        yet is sampled after the last token has been computed again.
        """
        if not self.prefilling and self.pending_mask is None:
            self.next_input()
            assert self._next is not None
            mx.eval(self._next.batch.tokens)
        self.cache = self._logits = self._lookahead = None

    @property
    def lookahead_ids(self) -> list[int]:
        """The token id to feed next, if it is sampled already. Waits for it."""
        return [] if self._next is None else [self._next.result()[0]]

    def resume(
        self, cache: Any, ids: TokenIds, on_computed: Callable[[TokenIds], None]
    ) -> None:
        """Continue after `preempt` with a cache that lacks only `ids`."""
        self.cache, self._remaining, self._on_computed = cache, list(ids), on_computed

    def finish(self, reason: str) -> None:
        """End the sequence with a finish reason, unless it already has one."""
        self.finished = True
        if self.stats.finish_reason is None:
            self.stats = replace(self.stats, finish_reason=reason)

    def _sample_next_input(self) -> SampledToken:
        sampler_input = self.prepare_next()
        assert sampler_input is not None
        [sampled] = self._sampler.sample([sampler_input])
        self.accept_next(sampled)
        return sampled

    def _mask(self, logits: Row) -> TokenMask:
        """Return the mask of the guide; it must not fail in a batch of others."""
        if self.guide is None:
            return None
        size = logits.batch.shape[-1]
        mask = self.guide.mask(size)
        assert not isinstance(mask, np.ndarray) or mask.shape == (size,), mask.shape
        return mask

    def _sampler_input(self, logits: Row, mask: TokenMask, count: int) -> SamplerInput:
        """Return how to sample token number `count` of the answer."""
        if self.params.logit_bias:
            check_bias(self.params.logit_bias, logits.batch.shape[-1])
        seed = (self._seed + count * SEED_STRIDE) % SEED_RANGE
        return SamplerInput(logits, self.params, seed, mask)

    def _wait_for_step(self, sampled: SampledToken, *, last: bool) -> Step:
        token, logprob, top = sampled.result()
        if math.isnan(logprob):
            raise NonFiniteError(NOT_FINITE.format(len(self.tokens) + 1))
        reason = self.stop_tokens.get(token) or (LENGTH if last else None)
        return Step(token, logprob, reason, tuple(top))

    def _apply_guide_finish(self, step: Step) -> Step:
        """Add the finish reason if the guide says that this token ends the answer."""
        reason = self.guide.finish_reason if self.guide else None
        ends = reason is not None and step.finish_reason in (None, LENGTH)
        return replace(step, finish_reason=reason) if ends else step

    def _update_stats(self, step: Step) -> None:
        now = time.perf_counter()
        self._first_token_time = self._first_token_time or now
        self.stats = replace(
            self.stats,
            completion_tokens=len(self.tokens),
            prompt_seconds=self._first_token_time - self._start_time,
            generation_seconds=now - self._first_token_time,
            time_to_first_token=self._first_token_time - self._arrival_time,
            peak_memory=mx.get_peak_memory(),
            finish_reason=step.finish_reason,
            finish_details=self.guide.finish_details if self.guide else (),
        )

    def _record_computed(self, ids: TokenIds) -> None:
        self.computed_ids += ids
        self._on_computed(ids)


def _allows_nothing(mask: TokenMask) -> bool:
    return isinstance(mask, np.ndarray) and not mask.any()


def last_logits(model: LanguageModel, hidden: mx.array) -> mx.array:
    """Return the float32 logits (V,) of the last position of hidden (1, L, M)."""
    return model.logits(hidden)[0, -1].astype(mx.float32)
