"""One answer on its way: a prompt read chunk by chunk, then a token a step.

    decoding = Decoding(model, cache, ids, params, limit=100)
    while decoding.reading:
        decoding.read_some()
    while not decoding.over:
        draw = decoding.next_draw()               # to be fed, perhaps beside others
        decoding.take(logits behind that token)   # draws the token after it
        step = decoding.read()                    # waits for the token that was fed

`take` is `offer`, `draw` and `accept`, for those who draw several answers' tokens in
one go.

Whoever drives it feeds the model, so that one answer alone (`generate`) and a batch of
them (`batching`) are the same steps. Knows token ids, nothing of text, threads, files
or of other answers.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.interfaces import LanguageModel, TokenGuide, TokenIds
from mlx_gptoss.engine.outputs import LENGTH, Statistics, Step
from mlx_gptoss.engine.sampler import SampledToken, SamplerInput, sample_batch
from mlx_gptoss.engine.sampling_params import SamplingParams, add_bias
from mlx_gptoss.errors import NonFiniteError, PromptError
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.model.device import use_gpu_paths

SEED_BYTES = 8
# Step n draws with the key of seed + n * golden ratio * 2^64: small seeds never meet.
SEED_STRIDE = 0x9E3779B97F4A7C15
SEED_RANGE = 1 << 64
NOT_FINITE = (
    "the model's logits for token {} of the answer are not finite: its weights are "
    "damaged or overflow in this dtype; check them with `mlx-gptoss inspect --deep`, "
    "or try `--dtype float32`"
)
NO_LEGAL_TOKEN = (
    "the constraints leave no token to be token {} of the answer: loosen them, or "
    "change `logit_bias`"
)


class Sequence:
    """The state of one answer; see the module.

    `ids` are read after what `cache` holds; at most `limit` tokens follow them.
    `on_fed(ids)` tells each stretch the cache has read, right after it: nothing later
    is in the cache yet. `fed` are all of them.
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
    ) -> None:
        self.model = model
        self.cache: Any = cache
        self.params = params
        self.limit = limit
        self.stop_tokens = dict(stop_tokens or {})
        self.guide = guide
        self.stats = Statistics(cache.offset + len(ids), cache.offset)
        self.computed_ids: list[int] = []
        self.tokens: list[int] = []  # that were drawn and read
        self.finished = False
        self._on_computed = on_computed or (lambda ids: None)
        self._remaining = list(ids)
        self._start_time = time.perf_counter()
        self._arrival_time = self._start_time if arrival_time is None else arrival_time
        self._first_token_time = 0.0  # when the first token was there
        self._logits: mx.array | None = None  # (V,) behind the last token that was fed
        self._next: SampledToken | None = None  # the token to be fed and read next
        self._lookahead: SampledToken | None = None  # the one behind it
        drawn = int.from_bytes(os.urandom(SEED_BYTES))
        self._seed = drawn if params.seed is None else params.seed

    @property
    def prefilling(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return bool(self._remaining)

    def prefill(self, size: int = PREFILL_CHUNK) -> int:
        """Read the next chunk of the prompt, of `most` tokens; return how many.

        Behind the last one the first token is drawn. Of all others only the cache is
        evaluated, which spares the experts of the last layer; the unembedding sees
        one position.
        """
        part, self._remaining = self._remaining[:size], self._remaining[size:]
        batch = mx.array([part], mx.int32)  # (1, L)
        hidden = self.model.hidden(batch, self.cache, last=True)
        mx.eval(self.cache.arrays if self._remaining else [hidden])
        self._record_computed(part)
        if use_gpu_paths():
            mx.clear_cache()  # chunks differ in size: their buffers pile up
        if not self._remaining and self._next is None:
            self._logits = last_logits(self.model, hidden)
            if self.pending_mask is None:
                self._next = self._sample(self._logits, len(self.tokens))
        return len(part)

    @property
    def pending_mask(self) -> "Future[object] | None":
        """What `next_draw` would have to wait for, if it is not there yet."""
        if self._next is not None or self.guide is None:
            return None
        pending = self.guide.pending_mask
        return None if pending is None or pending.done() else pending

    def next_input(self) -> SampledToken | None:
        """Return the token for the model to read, or None if it is the last one."""
        if self._next is None:
            assert self._logits is not None, "the prompt is not read yet"
            self._next = self._sample(self._logits, len(self.tokens))
        last = len(self.tokens) + 1 >= self.limit
        return None if last else self._next

    def sample_next(self, logits: mx.array | None) -> None:
        """Take the logits (V,) behind `next_draw`, and draw the token after it."""
        wish = self.prepare_sampling(logits)
        if wish is not None and logits is not None:
            [ahead] = sample_batch(logits[None], [wish])
            self.accept_sample(ahead)

    def prepare_sampling(self, logits: mx.array | None) -> SamplerInput | None:
        """Take the logits (V,) behind `next_draw`; say how the one after is drawn.

        None where there is no such token, or none can be drawn yet.
        """
        self._logits, self._lookahead = logits, None
        waits = self.guide is not None and self.guide.needs_last_token
        if logits is None or waits:
            return None
        return self._sampler_input(logits, len(self.tokens) + 1)

    def accept_sample(self, sampled: SampledToken | None) -> None:
        """Take what was drawn as `offer` wished."""
        self._lookahead = sampled
        if sampled is not None and self.guide is not None:
            self.guide.advance(sampled.token)

    def complete_step(self) -> Step:
        """Wait for the token that `next_draw` gave, and see whether it is the end.

        Raises NonFiniteError where the model's logits are no numbers, and PromptError
        where the guide left nothing to draw.
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
        """Let go of the cache; what is drawn already is fed and read afterwards.

        What cannot be drawn yet is drawn when the last token has been read again.
        """
        if not self.prefilling and self.pending_mask is None:
            self.next_input()
            assert self._next is not None
            mx.eval(self._next.batch.tokens)
        self.cache = self._logits = self._lookahead = None

    @property
    def lookahead_ids(self) -> list[int]:
        """The token that will be fed next, where one is drawn. Waits for it."""
        return [] if self._next is None else [self._next.result()[0]]

    def resume(
        self, cache: Any, ids: TokenIds, on_computed: Callable[[TokenIds], None]
    ) -> None:
        """Go on with another cache, which must read `ids` before it is as before."""
        self.cache, self._remaining, self._on_computed = cache, list(ids), on_computed

    def finish(self, reason: str) -> None:
        """End it here; what was generated stands."""
        self.finished = True
        if self.stats.finish_reason is None:
            self.stats = replace(self.stats, finish_reason=reason)

    def _sample(self, logits: mx.array, count: int) -> SampledToken:
        """Choose a token by its logits (V,), and start computing it."""
        [drawn] = sample_batch(logits[None], [self._sampler_input(logits, count)])
        assert drawn is not None
        if self.guide is not None:
            self.guide.advance(drawn.token)
        return drawn

    def _sampler_input(self, logits: mx.array, count: int) -> SamplerInput:
        """Say how token `count` of the answer is drawn by its logits (V,)."""
        legal = None if self.guide is None else self.guide.mask_logits(logits)
        if self.params.logit_bias:
            legal = logits if legal is None else legal
            legal = add_bias(legal, self.params.logit_bias)
        seed = (self._seed + count * SEED_STRIDE) % SEED_RANGE
        return SamplerInput(self.params, seed, legal)

    def _wait_for_step(self, sampled: SampledToken, *, last: bool) -> Step:
        token, logprob, top = sampled.result()
        if math.isnan(logprob):
            raise NonFiniteError(NOT_FINITE.format(len(self.tokens) + 1))
        if logprob == math.inf:
            raise PromptError(NO_LEGAL_TOKEN.format(len(self.tokens) + 1))
        reason = self.stop_tokens.get(token) or (LENGTH if last else None)
        return Step(token, logprob, reason, tuple(top))

    def _apply_guide_finish(self, step: Step) -> Step:
        """Say so where the guide knows that the answer ends with this token."""
        reason = self.guide.finish_reason if self.guide else None
        over = reason is not None and step.finish_reason in (None, LENGTH)
        return replace(step, finish_reason=reason) if over else step

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


def last_logits(model: LanguageModel, hidden: mx.array) -> mx.array:
    """Return the float32 logits (V,) of the last position of hidden (1, L, M)."""
    return model.logits(hidden)[0, -1].astype(mx.float32)
