"""One sequence: the state of one answer in the engine.

    sequence = Sequence(request)
    sequence.attach(lease)                    # a KV cache with the start of the prompt
    while ids := sequence.next_chunk(512):
        ...                                   # feed them, then:
        sequence.record_chunk(ids)
    sequence.logits = Row(logits, row)        # after the last token that was fed
    while not sequence.finished:
        ...                                   # sample, unless that was done below
        token = sequence.feed()               # to feed, alone or in a batch
        sequence.logits = Row(logits, row)    # after it; sample the next token
        step = sequence.complete_step()       # waits for the token that was fed

The scheduler runs the model and the sampler. Token ids only: knows nothing of text,
threads, files or other sequences.
"""

import math
import os
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.interfaces import TokenIds
from mlx_gptoss.engine.outputs import LENGTH, Statistics, Step
from mlx_gptoss.engine.prompt_cache.known_prompts import NO_ADAPTER
from mlx_gptoss.engine.prompt_cache.tree import token_array
from mlx_gptoss.engine.prompt_logprobs import PromptScorer
from mlx_gptoss.engine.rows import Row
from mlx_gptoss.engine.sampler import SampledToken, SamplerInput, check_bias
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.errors import NonFiniteError, PromptError
from mlx_gptoss.model.adapters import Adapter

QUEUED, PREFILL, DECODE, ENDED = "queued", "prefill", "decode", "ended"

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
PROMPT_NOT_FINITE = NOT_FINITE.replace("token {} of the answer", "the prompt")
NO_LEGAL_TOKEN = (
    "the constraints allow no token at position {} of the answer: loosen them, or "
    "change `logit_bias`"
)


class Lease(Protocol):
    """Exclusive use of a KV cache that holds `cached_tokens` already."""

    cached_tokens: int

    @property
    def cache(self) -> Any: ...
    def record(self, ids: TokenIds) -> None: ...
    def request_snapshot(self, offset: int) -> None: ...
    def release(self) -> None: ...
    def discard(self, *, non_finite: bool = False) -> None: ...


class Sequence:
    """The state of one answer, for the engine thread.

    Other threads may read `state` and `stats`, and set `cancelled` and `read_steps`.
    `adapter` is that of the request, acquired for as long as the sequence lives.
    """

    def __init__(self, request: Request, adapter: Adapter | None = None) -> None:
        self.request = request
        self.adapter = adapter
        self.prompt = token_array(request.ids)  # to compare with other prompts
        self.group = self if request.group is None else request.group
        self.tokens: list[int] = []  # of the answer so far
        self.stats: Statistics | None = None  # None before it started
        self.lease: Lease | None = None
        self.start_time = 0.0
        self.cancelled = False
        self.ended = False
        self.in_pass = False  # the cache may hold tokens that are not recorded
        self.stalled = False  # out of the batch until its reader catches up
        self.read_steps = 0  # that the reader has read, or waits for
        self.logits: Row | None = None  # (V,) after the token fed last
        self.sampled: SampledToken | None = None  # the token to feed next
        self.awaited_mask: object = None  # a mask the batch no longer waits for
        top = request.params.prompt_logprobs  # until the prompt is read
        self.scorer = None if top is None else PromptScorer(request.ids, top)
        self._fed: SampledToken | None = None  # the token of the step in progress
        self._last = False  # of the step in progress: no token follows
        self._remaining: list[int] = []  # prompt tokens still to be prefilled
        self._first = 0  # place in `token_ids` where computing began
        self._cached = 0  # how many of `token_ids` are in the cache
        self._first_token_time = 0.0
        seed = request.params.seed
        self._seed = int.from_bytes(os.urandom(SEED_BYTES)) if seed is None else seed

    @property
    def pinned(self) -> bool:
        """Whether its cache is the caller's, so that it cannot be preempted."""
        return self.request.cache is not None

    @property
    def adapter_digest(self) -> str:
        """The key of its prompts in the prompt cache."""
        return NO_ADAPTER if self.adapter is None else self.adapter.digest

    @property
    def state(self) -> str:
        """`queued` (also while preempted), `prefill`, `decode` or `ended`."""
        if self.ended:
            return ENDED
        if self.lease is None:
            return QUEUED
        return PREFILL if self._remaining else DECODE

    @property
    def length(self) -> int:
        """The number of its tokens in the cache once prefill is done."""
        return len(self.request.ids) + len(self.tokens)

    @property
    def prefilled(self) -> int:
        """The number of prompt tokens in the cache."""
        return min(self._cached, len(self.request.ids))

    @property
    def unread_prompt(self) -> int:
        """Tokens still to be prefilled, also of the answer if it resumes."""
        return len(self._remaining)

    @property
    def token_ids(self) -> list[int]:
        """The token ids of the prompt and of the answer so far."""
        return [*self.request.ids, *self.tokens]

    @property
    def computed_ids(self) -> tuple[int, ...]:
        """The token ids appended to the cache since the start."""
        return tuple(self.token_ids[self._first : self._cached])

    # The cache

    @property
    def cache(self) -> Any:
        """The KV cache to run the model with."""
        assert self.lease is not None
        return self.lease.cache

    def lookup_ids(self) -> list[int]:
        """Return the ids to look up in the prompt cache; the last is to be fed.

        Waits for the token to feed next, if it is sampled already.
        """
        sampled = [] if self.sampled is None else [self.sampled.result()[0]]
        return [*self.token_ids, *sampled]

    def attach(self, lease: Lease) -> None:
        """Start with a leased cache, or resume with it after `detach`."""
        self.lease = lease
        self._cached = 0 if self.pinned else lease.cached_tokens
        self._remaining = self.token_ids[self._cached :]
        if self.stats is None:
            self._first = self._cached
            self.start_time = time.perf_counter()
            total = lease.cached_tokens + len(self._remaining)
            self.stats = Statistics(total, lease.cached_tokens)

    def detach(self) -> Lease | None:
        """Give the cache up; `attach` continues with the same tokens.

        A token that is sampled already is fed after that. One that cannot be sampled
        yet is sampled after the last token has been computed again.
        """
        if self.sampled is not None:
            mx.eval(self.sampled.batch.tokens)
        lease, self.lease, self.logits = self.lease, None, None
        return lease

    def end(self, reason: str | None) -> Lease | None:
        """End with a finish reason, unless it has one; give the cache up."""
        self.ended = True
        if self.stats is not None and self.stats.finish_reason is None:
            self.stats = replace(self.stats, finish_reason=reason)
        self.sampled = self._fed = None
        lease, self.lease, self.logits = self.lease, None, None
        return lease

    # Prefill

    def next_chunk(self, size: int) -> list[int]:
        """Return the next prompt tokens to feed, at most `size`."""
        return self._remaining[:size]

    @property
    def next_position(self) -> int:
        """The place in `token_ids` of the next prompt token to feed."""
        return self.length - len(self._remaining)

    def ends_with(self, chunk: TokenIds) -> bool:
        """Whether no prompt token follows this chunk."""
        return len(chunk) == len(self._remaining)

    def record_chunk(self, ids: TokenIds) -> None:
        """Note that the cache holds a chunk of the prompt, and nothing later."""
        del self._remaining[: len(ids)]
        self._record(ids)
        if self.stats is not None and not self.tokens:  # for a report of progress
            seconds = time.perf_counter() - self.start_time
            self.stats = replace(self.stats, prompt_seconds=seconds)

    def end_prompt(self) -> None:
        """Report what was computed of the prompt; end if only that was asked for.

        Raises NonFiniteError for logits that are NaN or infinite.
        """
        scorer, self.scorer = self.scorer, None
        if scorer is not None:
            if not scorer.finite:
                raise NonFiniteError(PROMPT_NOT_FINITE)
            if self.request.on_prompt is not None:
                self.request.on_prompt(scorer.result())
        if self.request.limit == 0 and self.stats is not None:
            self.stats = replace(self.stats, finish_reason=LENGTH)

    # Decode

    @property
    def finished(self) -> bool:
        """Whether the last step had a finish reason."""
        return self.stats is not None and self.stats.finish_reason is not None

    @property
    def pending_mask(self) -> "Future[object] | None":
        """The token mask that sampling would wait for; None if there is none."""
        guide = self.request.guide
        if self.sampled is not None or guide is None:
            return None
        pending = guide.pending_mask
        return None if pending is None or pending.done() else pending

    def sampler_input(self) -> SamplerInput | None:
        """Return how to sample the next token; None if that has to wait.

        It waits for the token of the step in progress, or for a mask. Raises
        PromptError if the guide leaves no legal token.
        """
        assert self.logits is not None, "the prompt is not prefilled yet"
        params, guide = self.request.params, self.request.guide
        size, mask = self.logits.batch.shape[-1], None
        if guide is not None:
            in_progress = self._fed is not None
            if guide.needs_last_token if in_progress else self.pending_mask is not None:
                return None
            mask = guide.mask(size)
            if isinstance(mask, np.ndarray):
                assert mask.shape == (size,), mask.shape  # or it would fail in a batch
                if not mask.any():
                    if in_progress:
                        return None  # it is said after that step
                    raise PromptError(NO_LEGAL_TOKEN.format(len(self.tokens) + 1))
        if params.logit_bias:
            check_bias(params.logit_bias, size)
        count = len(self.tokens) + (self._fed is not None)
        seed = (self._seed + count * SEED_STRIDE) % SEED_RANGE
        return SamplerInput(self.logits, params, seed, mask)

    def accept_sample(self, sampled: SampledToken) -> None:
        """Take the token that was sampled, to be fed next."""
        self.sampled = sampled
        if self.request.guide is not None:
            self.request.guide.advance(sampled.state)

    def feed(self) -> SampledToken | None:
        """Begin a step; return the token to feed, or None if no token follows it."""
        assert self.sampled is not None
        self._fed, self.sampled = self.sampled, None
        self._last = len(self.tokens) + 1 >= self.request.limit
        return None if self._last else self._fed

    def complete_step(self) -> Step:
        """Wait for the token of `feed`; return its Step and check for the end.

        Raises NonFiniteError for logits that are NaN or infinite.
        """
        assert self._fed is not None
        step = self._wait_for_step(self._fed)
        guide = self.request.guide
        if guide is not None:
            if guide.accept_token(step.token):
                self.sampled = None  # to be sampled again
            if guide.finish_reason and step.finish_reason in (None, LENGTH):
                step = replace(step, finish_reason=guide.finish_reason)
        self._fed = None
        self.tokens.append(step.token)
        self._update_stats(step)
        if not self._last:
            self._record([step.token])
        return step

    def _wait_for_step(self, sampled: SampledToken) -> Step:
        token, logprob, top = sampled.result()
        if math.isnan(logprob):
            raise NonFiniteError(NOT_FINITE.format(len(self.tokens) + 1))
        last = LENGTH if self._last else None
        reason = self.request.stop_tokens.get(token) or last
        return Step(token, logprob, reason, tuple(top))

    def _update_stats(self, step: Step) -> None:
        assert self.stats is not None
        now, guide = time.perf_counter(), self.request.guide
        self._first_token_time = first = self._first_token_time or now
        self.stats = replace(
            self.stats,
            completion_tokens=len(self.tokens),
            prompt_seconds=first - self.start_time,
            generation_seconds=now - first,
            time_to_first_token=first - self.request.arrival_time,
            peak_memory=mx.get_peak_memory(),
            finish_reason=step.finish_reason,
            finish_details=guide.finish_details if guide else (),
        )

    def _record(self, ids: TokenIds) -> None:
        assert self.lease is not None
        self._cached += len(ids)
        self.in_pass = False
        self.lease.record(ids)

    # The reader

    @property
    def unread(self) -> int:
        """Steps reported ahead of the reader; -1 if the reader waits for one."""
        return len(self.tokens) - self.read_steps

    @property
    def too_far_ahead(self) -> bool:
        """Whether the reader has fallen so far behind that it leaves the batch."""
        ahead = self.request.run_ahead
        return ahead is not None and self.unread >= ahead

    @property
    def caught_up(self) -> bool:
        """Whether a stalled reader has read enough to go on."""
        ahead = self.request.run_ahead
        return ahead is None or self.unread < ahead // 2
