"""Prompt ids in, Steps out: chunked prefill, then decoding one step ahead.

Drives one `Decoding`. Knows token ids, nothing of text, threads or files. Anything
with the three methods of `LanguageModel` can be driven, a scripted stand-in included;
anything with those of `Guidance` may say which tokens are legal.
"""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.interfaces import Guidance, LanguageModel
from mlx_gptoss.engine.outputs import CANCELLED, Statistics, Step
from mlx_gptoss.engine.sampler import tokens_of
from mlx_gptoss.engine.sampling import SamplingParams
from mlx_gptoss.engine.sequence import Decoding, last_logits
from mlx_gptoss.errors import PromptError
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.model.device import use_gpu_paths

CLEAR_EVERY = 256  # steps
ANSWER_SHARE = 4  # of the room for tokens, one part in so many is the answer's
HEADERS = 12  # tokens around reasoning and answer
TOO_LITTLE = 64  # tokens in which nobody could think and answer: they answer


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

    def begin() -> Decoding:
        return Decoding(
            model,
            cache,
            ids,
            params,
            limit=limit,
            stop_tokens=stop_tokens,
            guide=guide,
            on_fed=on_fed,
        )

    return Generation(
        _Run(
            begin,
            len(ids),
            chunk,
            progress or (lambda done, total: None),
            cancelled or (lambda: False),
        )
    )


class Generation(Iterator[Step]):
    """The Steps of one answer; `stats` can be read at any time.

    `fed` are the ids the cache has read since the start, for those who reuse it:
    decoding one step ahead, that may include the stop token.
    """

    def __init__(self, run: "_Run") -> None:
        self._run = run  # the generator refers to it and not to us: no cycle to free
        self._steps = run.steps()

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Stop here; what was generated stands."""
        self._steps.close()

    @property
    def stats(self) -> Statistics:
        decoding = self._run.decoding
        return decoding.stats if decoding else Statistics(0, 0)

    @property
    def fed(self) -> tuple[int, ...]:
        decoding = self._run.decoding
        return tuple(decoding.fed) if decoding else ()


@dataclass
class _Run:
    """The work of one Generation."""

    begin: Callable[[], Decoding]  # called with the first step
    total: int
    chunk: int
    progress: Callable[[int, int], None]
    cancelled: Callable[[], bool]
    decoding: Decoding | None = None

    def steps(self) -> Generator[Step]:
        self.decoding = decoding = self.begin()
        mx.reset_peak_memory()
        try:
            done = 0
            while decoding.reading and not self.cancelled():
                done += decoding.read_some(self.chunk)
                self.progress(done, self.total)
            while not decoding.reading and not decoding.over:
                yield advance(decoding)
                if not decoding.over and self.cancelled():
                    break
        except GeneratorExit:
            decoding.finish(CANCELLED)
            raise
        decoding.finish(CANCELLED)  # unless it ended by itself


def advance(decoding: Decoding) -> Step:
    """Do one step of one answer alone.

    The step after is asked of the model before this one's token is waited for.
    """
    drawn, logits = decoding.next_draw(), None
    if drawn is not None:
        if use_gpu_paths() and (len(decoding.tokens) + 1) % CLEAR_EVERY == 0:
            mx.clear_cache()  # the growing cache leaves its former arrays behind
        hidden = decoding.model.hidden(tokens_of([drawn])[None], decoding.cache)
        logits = last_logits(decoding.model, hidden)
        mx.async_eval(logits)
    decoding.take(logits)
    return decoding.read()


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


def reasoning_share(room: int) -> int:
    """How many tokens of so many may be reasoning, so that an answer follows."""
    if room < TOO_LITTLE:
        return 0
    return (room - HEADERS) - (room - HEADERS) // ANSWER_SHARE
