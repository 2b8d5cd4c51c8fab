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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.interfaces import Guidance, LanguageModel
from mlx_gptoss.engine.outputs import LENGTH, Statistics, Step
from mlx_gptoss.engine.sampler import Draw, Wish, draw
from mlx_gptoss.engine.sampling import SamplingParams, add_bias
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
NONE_LEGAL = (
    "the constraints leave no token to be token {} of the answer: loosen them, or "
    "change `logit_bias`"
)


class Decoding:
    """The state of one answer; see the module.

    `ids` are read after what `cache` holds; at most `limit` tokens follow them.
    `on_fed(ids)` tells each stretch the cache has read, right after it: nothing later
    is in the cache yet. `fed` are all of them.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: Any,
        ids: Sequence[int],
        params: SamplingParams,
        *,
        limit: int,
        stop_tokens: Mapping[int, str] | None = None,
        guide: Guidance | None = None,
        on_fed: Callable[[Sequence[int]], None] | None = None,
        asked: float | None = None,
    ) -> None:
        self.model = model
        self.cache: Any = cache
        self.params = params
        self.limit = limit
        self.stop_tokens = dict(stop_tokens or {})
        self.guide = guide
        self.stats = Statistics(cache.offset + len(ids), cache.offset)
        self.fed: list[int] = []
        self.tokens: list[int] = []  # that were drawn and read
        self.over = False
        self._on_fed = on_fed or (lambda ids: None)
        self._unread = list(ids)
        self._started = time.perf_counter()
        self._asked = self._started if asked is None else asked
        self._first = 0.0  # when the first token was there
        self._logits: mx.array | None = None  # (V,) behind the last token that was fed
        self._draw: Draw | None = None  # the token to be fed and read next
        self._ahead: Draw | None = None  # the one behind it
        drawn = int.from_bytes(os.urandom(SEED_BYTES))
        self._seed = drawn if params.seed is None else params.seed

    @property
    def reading(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return bool(self._unread)

    def read_some(self, most: int = PREFILL_CHUNK) -> int:
        """Read the next chunk of the prompt, of `most` tokens; return how many.

        Behind the last one the first token is drawn. Of all others only the cache is
        evaluated, which spares the experts of the last layer; the unembedding sees
        one position.
        """
        part, self._unread = self._unread[:most], self._unread[most:]
        batch = mx.array([part], mx.int32)  # (1, L)
        hidden = self.model.hidden(batch, self.cache, last=True)
        mx.eval(self.cache.arrays if self._unread else [hidden])
        self._note_fed(part)
        if use_gpu_paths():
            mx.clear_cache()  # chunks differ in size: their buffers pile up
        if not self._unread and self._draw is None:
            self._logits = last_logits(self.model, hidden)
            if self.pending is None:
                self._draw = self._drawn(self._logits, len(self.tokens))
        return len(part)

    @property
    def pending(self) -> "Future[object] | None":
        """What `next_draw` would have to wait for, if it is not there yet."""
        if self._draw is not None or self.guide is None:
            return None
        pending = self.guide.pending
        return None if pending is None or pending.done() else pending

    def next_draw(self) -> Draw | None:
        """Return the token for the model to read, or None if it is the last one."""
        if self._draw is None:
            assert self._logits is not None, "the prompt is not read yet"
            self._draw = self._drawn(self._logits, len(self.tokens))
        last = len(self.tokens) + 1 >= self.limit
        return None if last else self._draw

    def take(self, logits: mx.array | None) -> None:
        """Take the logits (V,) behind `next_draw`, and draw the token after it."""
        wish = self.offer(logits)
        if wish is not None and logits is not None:
            [ahead] = draw(logits[None], [wish])
            self.accept(ahead)

    def offer(self, logits: mx.array | None) -> Wish | None:
        """Take the logits (V,) behind `next_draw`; say how the one after is drawn.

        None where there is no such token, or none can be drawn yet.
        """
        self._logits, self._ahead = logits, None
        waits = self.guide is not None and self.guide.waits
        if logits is None or waits:
            return None
        return self._wish(logits, len(self.tokens) + 1)

    def accept(self, ahead: Draw | None) -> None:
        """Take what was drawn as `offer` wished."""
        self._ahead = ahead
        if ahead is not None and self.guide is not None:
            self.guide.drew(ahead.token)

    def read(self) -> Step:
        """Wait for the token that `next_draw` gave, and see whether it is the end.

        Raises NonFiniteError where the model's logits are no numbers, and PromptError
        where the guide left nothing to draw.
        """
        assert self._draw is not None
        last = self._logits is None
        step = self._computed(self._draw, last=last)
        again = self.guide is not None and self.guide.read(step.token)
        step = self._ended(step)
        self.tokens.append(step.token)
        self._count(step)
        if not last:
            self._note_fed([step.token])
        self._draw = None if again else self._ahead
        self._ahead = None
        self.over = last or step.finish_reason is not None
        return step

    def pause(self) -> None:
        """Let go of the cache; what is drawn already is fed and read afterwards.

        What cannot be drawn yet is drawn when the last token has been read again.
        """
        if not self.reading and self.pending is None:
            self.next_draw()
            assert self._draw is not None
            mx.eval(self._draw.draws.tokens)
        self.cache = self._logits = self._ahead = None

    @property
    def drawn(self) -> list[int]:
        """The token that will be fed next, where one is drawn. Waits for it."""
        return [] if self._draw is None else [self._draw.read()[0]]

    def resume(
        self, cache: Any, ids: Sequence[int], on_fed: Callable[[Sequence[int]], None]
    ) -> None:
        """Go on with another cache, which must read `ids` before it is as before."""
        self.cache, self._unread, self._on_fed = cache, list(ids), on_fed

    def finish(self, reason: str) -> None:
        """End it here; what was generated stands."""
        self.over = True
        if self.stats.finish_reason is None:
            self.stats = replace(self.stats, finish_reason=reason)

    def _drawn(self, logits: mx.array, count: int) -> Draw:
        """Choose a token by its logits (V,), and start computing it."""
        [drawn] = draw(logits[None], [self._wish(logits, count)])
        assert drawn is not None
        if self.guide is not None:
            self.guide.drew(drawn.token)
        return drawn

    def _wish(self, logits: mx.array, count: int) -> Wish:
        """Say how token `count` of the answer is drawn by its logits (V,)."""
        legal = None if self.guide is None else self.guide.masked(logits)
        if self.params.logit_bias:
            legal = logits if legal is None else legal
            legal = add_bias(legal, self.params.logit_bias)
        seed = (self._seed + count * SEED_STRIDE) % SEED_RANGE
        return Wish(self.params, seed, legal)

    def _computed(self, drawn: Draw, *, last: bool) -> Step:
        token, logprob, top = drawn.read()
        if math.isnan(logprob):
            raise NonFiniteError(NOT_FINITE.format(len(self.tokens) + 1))
        if logprob == math.inf:
            raise PromptError(NONE_LEGAL.format(len(self.tokens) + 1))
        reason = self.stop_tokens.get(token) or (LENGTH if last else None)
        return Step(token, logprob, reason, tuple(top))

    def _ended(self, step: Step) -> Step:
        """Say so where the guide knows that the answer ends with this token."""
        reason = self.guide.finish_reason if self.guide else None
        over = reason is not None and step.finish_reason in (None, LENGTH)
        return replace(step, finish_reason=reason) if over else step

    def _count(self, step: Step) -> None:
        now = time.perf_counter()
        self._first = self._first or now
        self.stats = replace(
            self.stats,
            completion_tokens=len(self.tokens),
            prompt_seconds=self._first - self._started,
            generation_seconds=now - self._first,
            time_to_first_token=self._first - self._asked,
            peak_memory=mx.get_peak_memory(),
            finish_reason=step.finish_reason,
            finish_details=self.guide.details if self.guide else (),
        )

    def _note_fed(self, ids: Sequence[int]) -> None:
        self.fed += ids
        self._on_fed(ids)


def last_logits(model: LanguageModel, hidden: mx.array) -> mx.array:
    """Return the float32 logits (V,) of the last position of hidden (1, L, M)."""
    return model.logits(hidden)[0, -1].astype(mx.float32)
