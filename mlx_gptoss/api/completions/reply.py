"""Write raw completions: answers to a reply, whole or in chunks."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlx_gptoss.api.completions import wire
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt, merge_answers
from mlx_gptoss.api.ids import new_id
from mlx_gptoss.api.logprobs import clamp_logprob
from mlx_gptoss.api.prompt_logprobs import echoed_logprobs, vllm_prompt_logprobs
from mlx_gptoss.api.reply_parser import ParsedToken
from mlx_gptoss.api.usage import sum_usage
from mlx_gptoss.api.wire import CompletionUsage, StreamedProgress
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import CONTENT_FILTER, LENGTH, STOP
from mlx_gptoss.engine.raw_text import TextParser
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.events import Answer, ParserEvent


@dataclass(frozen=True)
class CompletionReplyOptions:
    """The ids and options of the reply to one request.

    `alternatives` are those of each token, None without log-probabilities.
    `show_control` writes control tokens of an echoed prompt as their names.
    """

    model: str
    tokenizer: Tokenizer
    alternatives: int | None = None
    prompt_logprobs: bool = False
    echo: bool = False
    show_control: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: new_id("cmpl-", 12))
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(
        cls, request: wire.CompletionRequest, model: str, runtime: Runtime
    ) -> "CompletionReplyOptions":
        stream_options = request.stream_options
        return cls(
            model,
            runtime.tokenizer,
            alternatives=request.logprobs,
            prompt_logprobs=request.prompt_logprobs is not None,
            echo=bool(request.echo),
            show_control=request.skip_special_tokens is False
            or bool(request.parse_special),
            include_usage=bool(stream_options and stream_options.include_usage),
        )

    def new_reply(
        self, choices: list[wire.CompletionChoice], usage: CompletionUsage | None
    ) -> wire.CompletionReply:
        optional: dict[str, Any] = {} if usage is None else {"usage": usage}
        return wire.CompletionReply(
            id=self.id,
            object="text_completion",
            created=self.created,
            model=self.model,
            choices=choices,
            **optional,
        )


class LoggedToken(NamedTuple):
    """A token of a choice, where its text begins, and what is known of it."""

    token: int
    offset: int  # characters
    logprob: float | None
    top: Sequence[tuple[int, float]]


class CompletionChoiceBuilder:
    """Collects the text of one choice, and the logprobs of its tokens."""

    def __init__(self, options: CompletionReplyOptions, prompt: PreparedPrompt) -> None:
        self._options = options
        self._prompt = prompt
        self._tokens: list[LoggedToken] = []  # since the last `take_logprobs`
        self.text = ""

    def add_echo(self, answer: AnswerStream) -> str:
        """Take the prompt, if it is echoed, once it is read; return its text."""
        if not self._options.echo:
            return ""
        parser = TextParser(
            self._options.tokenizer, show_control=self._options.show_control
        )
        known = [(None, [])] * len(self._prompt.ids)
        if self._options.alternatives is not None and answer.prompt_logprobs:
            known = echoed_logprobs(answer.prompt_logprobs, self._options.alternatives)
        pieces, length = list[str](), 0
        for token, (logprob, top) in zip(self._prompt.ids, known, strict=True):
            self._tokens.append(LoggedToken(token, length, logprob, top))
            pieces.append(event_text(parser.feed(token)))
            length += len(pieces[-1])
        pieces.append(event_text(parser.finish()))
        self.text = "".join(pieces)
        return self.text

    def add(self, token: ParsedToken) -> str:
        """Take one token; return the text that it completes."""
        if token.visible and (step := token.step) is not None:
            place = len(self.text)
            self._tokens.append(
                LoggedToken(step.token, place, step.logprob, step.top_logprobs)
            )
        text = event_text(token.events)
        self.text += text
        return text

    def take_logprobs(self) -> wire.CompletionLogprobs | None:
        """Return the logprobs of the tokens since the last call, if requested."""
        told, self._tokens = self._tokens, []
        if self._options.alternatives is None:
            return None
        return wire.CompletionLogprobs(
            tokens=[self._name(one.token) for one in told],
            token_logprobs=[
                None if one.logprob is None else clamp_logprob(one.logprob)
                for one in told
            ],
            top_logprobs=[self._alternatives(one) for one in told]
            if self._options.alternatives
            else None,
            text_offset=[one.offset for one in told],
        )

    def prompt_logprobs(self, answer: AnswerStream) -> dict[str, Any]:
        """Return vLLM's field, if requested."""
        found = answer.prompt_logprobs
        if found is None or not self._options.prompt_logprobs:
            return {}
        tokenizer = self._options.tokenizer
        told = vllm_prompt_logprobs(self._prompt.ids, found, tokenizer)
        return {"prompt_logprobs": told}

    def _alternatives(self, one: LoggedToken) -> dict[str, float] | None:
        """Return the likeliest tokens and the token itself, by name, as OpenAI does."""
        if one.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in (*one.top, (one.token, one.logprob)):
            found.setdefault(self._name(token), clamp_logprob(logprob))
        return found

    def _name(self, token: int) -> str:
        """Return the text of a token; one that is no whole character by its bytes."""
        data = self._options.tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def event_text(events: Iterable[ParserEvent]) -> str:
    """Return the text of the answer in events."""
    return "".join(event.text for event in events if isinstance(event, Answer))


async def build_reply(
    answers: Sequence[AnswerStream], options: CompletionReplyOptions
) -> wire.CompletionReply:
    """Consume all answers and return the whole reply."""
    tokens: list[list[ParsedToken]] = [[] for _ in answers]
    async for index, token in merge_answers(answers):
        if token is not None:
            tokens[index].append(token)

    def build() -> wire.CompletionReply:
        choices = [
            build_choice(index, answer, tokens[index], options)
            for index, answer in enumerate(answers)
        ]
        return options.new_reply(choices, sum_usage(answers))

    # An echoed prompt can be long.
    return await asyncio.to_thread(build)


def build_choice(
    index: int,
    answer: AnswerStream,
    tokens: Iterable[ParsedToken],
    options: CompletionReplyOptions,
) -> wire.CompletionChoice:
    """Return the choice of an answer that has ended."""
    builder = CompletionChoiceBuilder(options, answer.prompt)
    builder.add_echo(answer)
    for token in tokens:
        builder.add(token)
    return wire.CompletionChoice(
        index=index,
        text=builder.text,
        logprobs=builder.take_logprobs(),
        finish_reason=finish_reason(answer.finish_reason),
        **builder.prompt_logprobs(answer),
    )


async def stream_chunks(
    answers: Sequence[AnswerStream], options: CompletionReplyOptions
) -> AsyncIterator[wire.CompletionReply]:
    """Yield the reply in chunks, as tokens arrive.

    An echo comes at once, unless it needs the log-probabilities of the prompt.
    """
    builders = [CompletionChoiceBuilder(options, answer.prompt) for answer in answers]
    unechoed = set(range(len(answers)))

    async def echo(index: int) -> wire.CompletionReply | None:
        unechoed.discard(index)
        builder = builders[index]
        if not await asyncio.to_thread(builder.add_echo, answers[index]):
            return None
        choice = _chunk_choice(index, builder.text, builder.take_logprobs())
        return options.new_reply([choice], None)

    if options.alternatives is None:
        for index in range(len(answers)):
            if (chunk := await echo(index)) is not None:
                yield chunk
    async for index, token in merge_answers(answers):
        if token is not None and token.progress is not None:
            chunk = options.new_reply([_chunk_choice(index, "")], None)
            chunk.prompt_progress = StreamedProgress.of(token.progress)
            yield chunk
            continue
        if index in unechoed and (chunk := await echo(index)) is not None:
            yield chunk
        if token is None:
            reason = finish_reason(answers[index].finish_reason)
            rest = builders[index].take_logprobs()  # of tokens without text
            logprobs = rest if rest and rest.tokens else None
            choice = _chunk_choice(index, "", logprobs, reason)
            yield options.new_reply([choice], None)
        elif text := builders[index].add(token):
            logprobs = builders[index].take_logprobs()
            yield options.new_reply([_chunk_choice(index, text, logprobs)], None)
    if options.include_usage:
        yield options.new_reply([], sum_usage(answers))


def _chunk_choice(
    index: int,
    text: str,
    logprobs: wire.CompletionLogprobs | None = None,
    reason: Any = None,
) -> wire.CompletionChoice:
    return wire.CompletionChoice(
        index=index, text=text, logprobs=logprobs, finish_reason=reason
    )


def finish_reason(reason: str) -> Any:
    """Return `stop`, `content_filter`, or `length` for everything that was cut."""
    return reason if reason in (STOP, CONTENT_FILTER) else LENGTH
