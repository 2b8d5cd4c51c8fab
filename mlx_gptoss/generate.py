"""Prompt ids in, Steps out: chunked prefill, then decoding one step ahead.

Knows token ids, nothing of text, threads or files. Anything with the three methods
of `LanguageModel` can be driven, a scripted stand-in included; anything with those of
`Guidance` may say which tokens are legal.
"""

import itertools
import os
import sys
import time
from collections.abc import (
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import mlx.core as mx

from mlx_gptoss.errors import PromptError
from mlx_gptoss.interfaces import Guidance, LanguageModel
from mlx_gptoss.linear import on_gpu
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.sampling import SamplingParams, log_softmax, sample, top_logprobs
from mlx_gptoss.steps import CANCELLED, LENGTH, Statistics, Step

CLEAR_EVERY = 256  # steps
SEED_BYTES = 8
# Step n draws with the key of seed + n * golden ratio * 2^64: small seeds never meet.
SEED_STRIDE = 0x9E3779B97F4A7C15
SEED_RANGE = 1 << 64


def generate(
    model: LanguageModel,
    ids: Sequence[int],
    params: SamplingParams | None = None,
    *,
    stop_tokens: Mapping[int, str] | None = None,
    guide: Guidance | None = None,
    cache: Any = None,
    context: int | None = None,
    chunk: int = PREFILL_CHUNK,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_fed: Callable[[Sequence[int]], None] | None = None,
) -> "Generation":
    """Read `ids` after what `cache` holds, then yield a Step for each new token.

    `guide` keeps out the tokens that are not legal. `context` bounds prompt and
    answer together. `progress(done, total)` is called after each chunk of the prompt;
    `cancelled()` is asked between chunks and steps.
    `on_fed(ids)` tells each stretch the cache has read, right after it: nothing
    later is in the cache yet. Raises PromptError for an empty prompt or one that
    fills the context.
    """
    cache = model.make_cache() if cache is None else cache
    params = params or SamplingParams()
    limit = room(len(ids), cache.offset, context, params.max_tokens)
    run = _Run(
        model,
        cache,
        params,
        dict(stop_tokens or {}),
        guide,
        limit,
        chunk,
        progress or (lambda done, total: None),
        cancelled or (lambda: False),
        on_fed or (lambda ids: None),
    )
    return Generation(run, ids)


class Generation(Iterator[Step]):
    """The Steps of one answer; `stats` can be read at any time.

    `fed` are the ids the cache has read since the start, for those who reuse it:
    decoding one step ahead, that may include the stop token.
    """

    def __init__(self, run: "_Run", ids: Sequence[int]) -> None:
        self._run = run  # the generator refers to it and not to us: no cycle to free
        self._steps = run.steps(ids)

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Stop here; what was generated stands."""
        self._steps.close()

    @property
    def stats(self) -> Statistics:
        return self._run.stats

    @property
    def fed(self) -> tuple[int, ...]:
        return tuple(self._run.fed)


class _Draw(NamedTuple):
    """A token that was chosen and may not be computed yet."""

    token: mx.array  # () int32
    logprob: mx.array  # () float32
    top: tuple[mx.array, mx.array] | None  # tokens and logprobs, best first


@dataclass
class _Run:
    """The work of one Generation."""

    model: LanguageModel
    cache: Any
    params: SamplingParams
    stop_tokens: Mapping[int, str]
    guide: Guidance | None
    limit: int
    chunk: int
    progress: Callable[[int, int], None]
    cancelled: Callable[[], bool]
    on_fed: Callable[[Sequence[int]], None]
    stats: Statistics = field(default_factory=lambda: Statistics(0, 0))
    fed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        drawn = int.from_bytes(os.urandom(SEED_BYTES))
        self.seed = drawn if self.params.seed is None else self.params.seed
        self.on_gpu = on_gpu()

    def steps(self, ids: Sequence[int]) -> Generator[Step]:
        cached = self.cache.offset
        self.stats = Statistics(cached + len(ids), cached)
        mx.reset_peak_memory()
        started = time.perf_counter()
        try:
            hidden = self.prefill(ids)
            if hidden is None:
                self.finish(CANCELLED)
            else:
                yield from self.decode(hidden, started)
        except GeneratorExit:
            self.finish(CANCELLED)
            raise

    def prefill(self, ids: Sequence[int]) -> mx.array | None:
        """Read the prompt; return hidden (1, 1, M) of its end, or None if cancelled.

        Of all chunks but the last only the cache is evaluated, which spares the
        experts of the last layer; the unembedding sees one position.
        """
        total, hidden = len(ids), None
        for start in range(0, total, self.chunk):
            if self.cancelled():
                return None
            part = mx.array([ids[start : start + self.chunk]], mx.int32)  # (1, L)
            hidden = self.model.hidden(part, self.cache, last=True)
            done = start + part.shape[1]
            mx.eval(self.cache.arrays if done < total else [hidden])
            self.note_fed(ids[start:done])
            if self.on_gpu:
                mx.clear_cache()  # chunks differ in size: their buffers pile up
            self.progress(done, total)
        return hidden

    def decode(self, hidden: mx.array, started: float) -> Generator[Step]:
        draw = self.draw(self.logits(hidden), 0)
        first = 0.0
        for count in itertools.count(1):
            # Ask for the step after this one before waiting for this one's token.
            logits = self.feed(draw, count) if count < self.limit else None
            waits = self.guide is not None and self.guide.waits
            ahead = None if logits is None or waits else self.draw(logits, count)
            step = self.read(draw, last=logits is None)
            again = self.guide is not None and self.guide.read(step.token)
            step = self.ended(step)
            now = time.perf_counter()
            first = first or now
            self.stats = replace(
                self.stats,
                completion_tokens=count,
                prompt_seconds=first - started,
                generation_seconds=now - first,
                time_to_first_token=first - started,
                peak_memory=mx.get_peak_memory(),
                finish_reason=step.finish_reason,
                finish_details=self.guide.details if self.guide else (),
            )
            if logits is not None:
                self.note_fed([step.token])
            yield step
            if logits is None or step.finish_reason:
                return
            if self.cancelled():
                self.finish(CANCELLED)
                return
            if ahead is None or again:
                ahead = self.draw(logits, count)
            draw = ahead

    def feed(self, draw: _Draw, count: int) -> mx.array:
        """Give the model a token, and start computing the logits (V,) behind it."""
        if self.on_gpu and count % CLEAR_EVERY == 0:
            mx.clear_cache()  # the growing cache leaves its former arrays behind
        hidden = self.model.hidden(draw.token.reshape(1, 1), self.cache)
        logits = self.logits(hidden)
        mx.async_eval(logits)
        return logits

    def logits(self, hidden: mx.array) -> mx.array:
        return self.model.logits(hidden)[0, -1].astype(mx.float32)  # (V,)

    def draw(self, logits: mx.array, count: int) -> _Draw:
        """Choose a token by its logits (V,), and start computing it."""
        key = mx.random.key((self.seed + count * SEED_STRIDE) % SEED_RANGE)
        legal = logits if self.guide is None else self.guide.masked(logits)
        token = sample(legal, self.params, key)
        if self.guide is not None:
            self.guide.drew(token)
        logprobs = log_softmax(logits)
        count = self.params.top_logprobs
        top = top_logprobs(logprobs, count) if count else None
        draw = _Draw(token, logprobs[token], top)
        mx.async_eval(draw)
        return draw

    def read(self, draw: _Draw, *, last: bool) -> Step:
        token = cast(int, draw.token.item())
        logprob = cast(float, draw.logprob.item())
        reason = self.stop_tokens.get(token) or (LENGTH if last else None)
        top = [cast("list[Any]", part.tolist()) for part in draw.top or ()]
        return Step(token, logprob, reason, tuple(zip(*top, strict=True)))

    def ended(self, step: Step) -> Step:
        """Say so where the guide knows that the answer ends with this token."""
        reason = self.guide.finish_reason if self.guide else None
        over = reason is not None and step.finish_reason in (None, LENGTH)
        return replace(step, finish_reason=reason) if over else step

    def note_fed(self, ids: Sequence[int]) -> None:
        self.fed += ids
        self.on_fed(ids)

    def finish(self, reason: str) -> None:
        if self.stats.finish_reason is None:
            self.stats = replace(self.stats, finish_reason=reason)


def room(prompt: int, cached: int, context: int | None, wanted: int | None) -> int:
    """How many tokens may be generated. Raises PromptError if there is no room."""
    if not prompt:
        raise PromptError("the prompt is empty: give at least one token")
    if context is None:
        return sys.maxsize if wanted is None else wanted
    room = context - cached - prompt
    if room <= 0:
        raise PromptError(
            f"the prompt has {cached + prompt:,} tokens and the context holds "
            f"{context:,}: shorten it, or start a new conversation"
        )
    return room if wanted is None else min(room, wanted)
