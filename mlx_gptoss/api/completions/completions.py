"""Raw completions: a request to prompts, what was heard to replies.

Knows the wire types and turns; nothing of HTTP, and nothing of Harmony.
"""

import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_gptoss.api import options as asking
from mlx_gptoss.api.aliases import NO_LIMIT
from mlx_gptoss.api.completions import wire
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt, merge_answers
from mlx_gptoss.api.limits import check_count, check_maximum, read_stop_strings
from mlx_gptoss.api.logprobs import clamp_logprob, token_text
from mlx_gptoss.api.prompt import check_prompt_length, choice_seed
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.text_parser import ParsedToken, TextAnswerParser
from mlx_gptoss.api.usage import sum_usage
from mlx_gptoss.api.wire import CompletionUsage
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import LENGTH, STOP
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony.events import Answer
from mlx_gptoss.harmony.render.prompt import SHORT_PROMPT, Piece, encode_within

DEFAULT_MAX_TOKENS = 16  # as OpenAI has it


def read_prompts(
    request: wire.CompletionRequest, runtime: Runtime, settings: ServerSettings
) -> list[PreparedPrompt]:
    """Make the prompts of a request, `n` of each. Raises ApiError, PromptError."""
    limits = settings.limits
    _refuse_unsupported(request)
    texts = _prompts(request.prompt)
    copies = request.n or 1
    check_count("prompt", len(texts), limits.prompts)
    check_maximum("n", copies, limits.choices)
    check_maximum("`prompt` times `n`", copies * len(texts), limits.prompts)
    params = _params(request, runtime, settings)
    stops = read_stop_strings(request.stop, limits)
    prompts = []
    for text in texts:
        ids = _encode_prompt(text, runtime, special=bool(request.parse_special))
        check_prompt_length(len(ids), runtime)
        for number in range(copies):
            seeded = replace(params, seed=choice_seed(params.seed, number))
            reader = TextAnswerParser(runtime.tokenizer, stops)
            prompts.append(PreparedPrompt(ids, seeded, reader, shared=copies > 1))
    return prompts


def _refuse_unsupported(request: wire.CompletionRequest) -> None:
    if request.suffix:
        raise bad_request(
            "`suffix` is not supported: gpt-oss only goes on behind a prompt",
            param="suffix",
        )
    if request.best_of not in (None, request.n or 1):
        raise bad_request("`best_of` is not supported: leave it out", param="best_of")
    if request.echo and request.logprobs is not None:
        raise bad_request(
            "`echo` with `logprobs` is not supported: those of a prompt are not "
            "computed",
            param="echo",
        )


def _prompts(given: Any) -> list[str | list[int]]:
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    if not given:
        raise bad_request(
            "the prompt is empty: give at least one token", param="prompt"
        )
    return given


def _encode_prompt(
    prompt: str | list[int], runtime: Runtime, *, special: bool
) -> list[int]:
    """The ids of a prompt. Raises LongPromptError if it fills the context."""
    if not isinstance(prompt, str):
        return prompt
    tokenizer = runtime.tokenizer
    context = runtime.context
    if special and context is not None and len(prompt) > SHORT_PROMPT:
        named = max(map(prompt.count, tokenizer.specials), default=0)
        if named >= context:  # before they are taken apart
            raise LongPromptError(named, context)
    names = "|".join(map(re.escape, tokenizer.specials))
    parts = re.split(f"({names})", prompt) if special else [prompt]
    pieces = [
        Piece(part, special=special and part in tokenizer.specials) for part in parts
    ]
    return encode_within(pieces, tokenizer, context)


def _params(
    request: wire.CompletionRequest, runtime: Runtime, settings: ServerSettings
) -> SamplingParams:
    return asking.read_sampling_params(
        request,
        settings,
        max_tokens=max_tokens(request.max_tokens),
        top_logprobs=request.logprobs or 0,
        vocab_size=runtime.tokenizer.vocab_size,
    )


def max_tokens(given: int | None) -> int | None:
    """How many tokens at most; None is to the end of the context."""
    return None if given == NO_LIMIT else given or DEFAULT_MAX_TOKENS


@dataclass(frozen=True)
class CompletionReplyOptions:
    """How replies to one request are written."""

    model: str
    tokenizer: Tokenizer
    logprobs: bool = False
    top_logprobs: bool = False
    echo: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(
        cls, request: wire.CompletionRequest, model: str, runtime: Runtime
    ) -> "CompletionReplyOptions":
        options = request.stream_options
        return cls(
            model,
            runtime.tokenizer,
            logprobs=request.logprobs is not None,
            top_logprobs=bool(request.logprobs),
            echo=bool(request.echo),
            include_usage=bool(options and options.include_usage),
        )

    def new_reply(
        self, choices: list[wire.CompletionChoice], usage: CompletionUsage | None
    ) -> wire.CompletionReply:
        more: dict[str, Any] = {} if usage is None else {"usage": usage}
        return wire.CompletionReply(
            id=self.id,
            object="text_completion",
            created=self.created,
            model=self.model,
            choices=choices,
            **more,
        )


class CompletionChoiceBuilder:
    """The text of one choice while it grows, and the logprobs of its tokens."""

    def __init__(self, manner: CompletionReplyOptions, prompt: PreparedPrompt) -> None:
        self._manner = manner
        echo = manner.tokenizer.decode(prompt.ids) if manner.echo else ""
        self.text = echo
        self._offset = len(echo)  # of the token that comes next
        self._unsaid: list[tuple[Any, int]] = []  # steps and their offsets

    def add(self, heard: ParsedToken) -> str:
        """Take one token; return the text that it completes."""
        if heard.visible:
            self._unsaid.append((heard.step, self._offset))
        new = "".join(one.text for one in heard.events if isinstance(one, Answer))
        self.text += new
        self._offset = len(self.text)
        return new

    def take_logprobs(self) -> wire.CompletionLogprobs | None:
        """The logprobs of the tokens since the last time, if they are shown."""
        told, self._unsaid = self._unsaid, []
        if not self._manner.logprobs:
            return None
        steps = [step for step, _ in told]
        tokenizer = self._manner.tokenizer
        top = [
            {token_text(tokenizer, token): clamp_logprob(value) for token, value in one}
            for one in (step.top_logprobs for step in steps)
        ]
        return wire.CompletionLogprobs(
            tokens=[token_text(tokenizer, step.token) for step in steps],
            token_logprobs=[clamp_logprob(step.logprob) for step in steps],
            top_logprobs=list(top) if self._manner.top_logprobs else None,
            text_offset=[offset for _, offset in told],
        )


async def build_reply(
    turns: Sequence[AnswerStream], manner: CompletionReplyOptions
) -> wire.CompletionReply:
    """Read all turns to their end."""
    written = [CompletionChoiceBuilder(manner, turn.prompt) for turn in turns]
    async for number, heard in merge_answers(turns):
        if heard is not None:
            written[number].add(heard)
    choices = [
        wire.CompletionChoice(
            index=number,
            text=one.text,
            logprobs=one.take_logprobs(),
            finish_reason=finish_reason(turns[number].finish_reason),
        )
        for number, one in enumerate(written)
    ]
    return manner.new_reply(choices, sum_usage(turns))


async def stream_chunks(
    turns: Sequence[AnswerStream], manner: CompletionReplyOptions
) -> AsyncIterator[wire.CompletionReply]:
    """The reply piece by piece, as its tokens come."""
    written = [CompletionChoiceBuilder(manner, turn.prompt) for turn in turns]
    for number, one in enumerate(written):
        if one.text:
            yield manner.new_reply([_chunk_choice(number, one.text)], None)
    async for number, heard in merge_answers(turns):
        if heard is None:
            reason = finish_reason(turns[number].finish_reason)
            yield manner.new_reply([_chunk_choice(number, "", reason=reason)], None)
        elif text := written[number].add(heard):
            logprobs = written[number].take_logprobs()
            yield manner.new_reply([_chunk_choice(number, text, logprobs)], None)
    if manner.include_usage:
        yield manner.new_reply([], sum_usage(turns))


def _chunk_choice(
    number: int,
    text: str,
    logprobs: wire.CompletionLogprobs | None = None,
    reason: Any = None,
) -> wire.CompletionChoice:
    return wire.CompletionChoice(
        index=number, text=text, logprobs=logprobs, finish_reason=reason
    )


def finish_reason(reason: str) -> Any:
    """What is no stop has been cut."""
    return STOP if reason == STOP else LENGTH
