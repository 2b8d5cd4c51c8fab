"""Generate from one prompt: chunked prefill, then decoding one step ahead.

Runs one `Sequence` alone; `scheduler` runs several in a batch. Token ids in, Steps out:
knows nothing of text, threads or files.
"""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.interfaces import LanguageModel, TokenGuide, TokenIds
from mlx_gptoss.engine.outputs import CANCELLED, Statistics, Step
from mlx_gptoss.engine.rows import Row, gather_rows
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.sequence import Sequence, last_logits
from mlx_gptoss.errors import PromptError
from mlx_gptoss.memory import PREFILL_CHUNK
from mlx_gptoss.model.device import use_gpu_paths

CLEAR_CACHE_EVERY = 256  # steps
ANSWER_DIVISOR = 4  # one part in 4 of the tokens is left for the answer
HEADER_TOKENS = 12  # around reasoning and answer
MIN_REASONING_ROOM = 64  # tokens; with fewer there is no reasoning, only an answer


def generate(
    model: LanguageModel,
    ids: TokenIds,
    params: SamplingParams | None = None,
    *,
    stop_tokens: Mapping[int, str] | None = None,
    guide: TokenGuide | None = None,
    cache: Any = None,
    context: int | None = None,
    chunk: int = PREFILL_CHUNK,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_computed: Callable[[TokenIds], None] | None = None,
) -> "Generation":
    """Prefill `ids` after what `cache` holds, then yield a Step per new token.

    stop_tokens: token id -> finish reason.
    guide: masks the tokens that are not legal.
    context: most tokens of cache, prompt and answer together.
    chunk: prompt tokens per prefill pass.
    progress(done, total): called after each chunk, in prompt tokens.
    cancelled(): checked between chunks and steps.
    on_computed(ids): called with each run of ids right after it is in the cache.

    Raises PromptError for an empty prompt or one that fills the context.
    """
    cache = model.make_cache() if cache is None else cache
    params = params or SamplingParams()
    limit = resolve_max_tokens(len(ids), cache.offset, context, params.max_tokens)

    def begin() -> Sequence:
        return Sequence(
            model,
            cache,
            ids,
            params,
            limit=limit,
            stop_tokens=stop_tokens,
            guide=guide,
            on_computed=on_computed,
        )

    return Generation(
        _Loop(
            begin,
            len(ids),
            chunk,
            progress or (lambda done, total: None),
            cancelled or (lambda: False),
        )
    )


class Generation(Iterator[Step]):
    """The Steps of one answer; `stats` can be read at any time.

    `computed_ids` are the token ids appended to the cache since the start. Decoding
    runs one step ahead, so they may include the stop token.
    """

    def __init__(self, run: "_Loop") -> None:
        self._run = run  # not self: the generator would form a reference cycle
        self._steps = run.steps()

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Stop generating; the finish reason becomes `cancelled`."""
        self._steps.close()

    @property
    def stats(self) -> Statistics:
        sequence = self._run.sequence
        return sequence.stats if sequence else Statistics(0, 0)

    @property
    def computed_ids(self) -> tuple[int, ...]:
        sequence = self._run.sequence
        return tuple(sequence.computed_ids) if sequence else ()


@dataclass
class _Loop:
    """The loop of one Generation."""

    make_sequence: Callable[[], Sequence]  # called on the first step
    total: int
    chunk: int
    progress: Callable[[int, int], None]
    cancelled: Callable[[], bool]
    sequence: Sequence | None = None

    def steps(self) -> Generator[Step]:
        self.sequence = sequence = self.make_sequence()
        mx.reset_peak_memory()
        try:
            done = 0
            while sequence.prefilling and not self.cancelled():
                done += sequence.prefill(self.chunk)
                self.progress(done, self.total)
            while not sequence.prefilling and not sequence.finished:
                yield decode_step(sequence)
                if not sequence.finished and self.cancelled():
                    break
        except GeneratorExit:
            sequence.finish(CANCELLED)
            raise
        sequence.finish(CANCELLED)  # unless it ended by itself


def decode_step(sequence: Sequence) -> Step:
    """Run one decode step of a single sequence.

    The next step is submitted to the device before this step's token is waited for.
    """
    sampled, logits = sequence.next_input(), None
    if sampled is not None:
        if use_gpu_paths() and (len(sequence.tokens) + 1) % CLEAR_CACHE_EVERY == 0:
            mx.clear_cache()  # the growing cache leaves its old arrays behind
        tokens = gather_rows([sampled.token])
        hidden = sequence.model.hidden(tokens[None], sequence.cache)
        logits = Row(last_logits(sequence.model, hidden)[None], 0)
        mx.async_eval(logits.batch)
    sequence.sample_next(logits)
    return sequence.complete_step()


def resolve_max_tokens(
    prompt_length: int, cached_length: int, context: int | None, max_tokens: int | None
) -> int:
    """Return the most tokens that can be generated within the context.

    Raises PromptError if the prompt is empty or leaves no room in the context.
    """
    if not prompt_length:
        raise PromptError("the prompt is empty: give at least one token")
    if context is None:
        return sys.maxsize if max_tokens is None else max_tokens
    room = context - cached_length - prompt_length
    if room <= 0:
        raise PromptError(
            f"the prompt has {cached_length + prompt_length:,} tokens and the context "
            f"holds {context:,}: shorten it, or start a new conversation"
        )
    return room if max_tokens is None else min(room, max_tokens)


def default_reasoning_budget(max_tokens: int) -> int:
    """Return how many of `max_tokens` may be reasoning, so that an answer follows."""
    if max_tokens < MIN_REASONING_ROOM:
        return 0
    return (max_tokens - HEADER_TOKENS) - (max_tokens - HEADER_TOKENS) // ANSWER_DIVISOR
