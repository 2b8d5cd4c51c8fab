"""Write raw completions: answers to a reply, whole or in chunks."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.completions import wire
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt, merge_answers
from mlx_gptoss.api.ids import new_id
from mlx_gptoss.api.logprobs import clamp_logprob, token_text
from mlx_gptoss.api.reply_parser import ParsedToken
from mlx_gptoss.api.usage import sum_usage
from mlx_gptoss.api.wire import CompletionUsage, StreamedProgress
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import LENGTH, STOP, Step
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.events import Answer


@dataclass(frozen=True)
class CompletionReplyOptions:
    """The ids and options of the reply to one request."""

    model: str
    tokenizer: Tokenizer
    logprobs: bool = False
    top_logprobs: bool = False
    echo: bool = False
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
            logprobs=request.logprobs is not None,
            top_logprobs=bool(request.logprobs),
            echo=bool(request.echo),
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


class CompletionChoiceBuilder:
    """Collects the text of one choice, and the logprobs of its tokens."""

    def __init__(self, options: CompletionReplyOptions, prompt: PreparedPrompt) -> None:
        self._options = options
        echo = options.tokenizer.decode(prompt.ids) if options.echo else ""
        self.text = echo
        self._offset = len(echo)  # of the next token
        self._pending: list[tuple[Step, int]] = []  # steps and their offsets

    def add(self, token: ParsedToken) -> str:
        """Take one token; return the text that it completes."""
        if token.visible and token.step is not None:
            self._pending.append((token.step, self._offset))
        text = "".join(
            event.text for event in token.events if isinstance(event, Answer)
        )
        self.text += text
        self._offset = len(self.text)
        return text

    def take_logprobs(self) -> wire.CompletionLogprobs | None:
        """Return the logprobs of the tokens since the last call, if requested."""
        pending, self._pending = self._pending, []
        if not self._options.logprobs:
            return None
        steps = [step for step, _ in pending]
        tokenizer = self._options.tokenizer
        top: list[dict[str, float] | None] = [
            {
                token_text(tokenizer, token): clamp_logprob(logprob)
                for token, logprob in step.top_logprobs
            }
            for step in steps
        ]
        return wire.CompletionLogprobs(
            tokens=[token_text(tokenizer, step.token) for step in steps],
            token_logprobs=[clamp_logprob(step.logprob) for step in steps],
            top_logprobs=top if self._options.top_logprobs else None,
            text_offset=[offset for _, offset in pending],
        )


async def build_reply(
    answers: Sequence[AnswerStream], options: CompletionReplyOptions
) -> wire.CompletionReply:
    """Consume all answers and return the whole reply."""
    builders = [CompletionChoiceBuilder(options, answer.prompt) for answer in answers]
    async for index, token in merge_answers(answers):
        if token is not None:
            builders[index].add(token)
    choices = [
        wire.CompletionChoice(
            index=index,
            text=builder.text,
            logprobs=builder.take_logprobs(),
            finish_reason=finish_reason(answers[index].finish_reason),
        )
        for index, builder in enumerate(builders)
    ]
    return options.new_reply(choices, sum_usage(answers))


async def stream_chunks(
    answers: Sequence[AnswerStream], options: CompletionReplyOptions
) -> AsyncIterator[wire.CompletionReply]:
    """Yield the reply in chunks, as tokens arrive."""
    builders = [CompletionChoiceBuilder(options, answer.prompt) for answer in answers]
    for index, builder in enumerate(builders):
        if builder.text:
            yield options.new_reply([_chunk_choice(index, builder.text)], None)
    async for index, token in merge_answers(answers):
        if token is None:
            reason = finish_reason(answers[index].finish_reason)
            yield options.new_reply([_chunk_choice(index, "", reason=reason)], None)
        elif token.progress is not None:
            chunk = options.new_reply([_chunk_choice(index, "")], None)
            chunk.prompt_progress = StreamedProgress.of(token.progress)
            yield chunk
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
    """Return `stop`, or `length` for everything that was cut."""
    return STOP if reason == STOP else LENGTH
