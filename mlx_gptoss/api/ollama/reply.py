"""Write replies of chat and generate: an answer to one reply, or to a line per token.

A call is sent whole, once it is complete. Whole replies are joined from the pieces of
streams, so both say the same.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.call_arguments import arguments_object
from mlx_gptoss.api.chat.reply import JoinedText
from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.logprobs import token_logprobs
from mlx_gptoss.api.ollama import wire
from mlx_gptoss.api.ollama.durations import nanoseconds, timestamp
from mlx_gptoss.api.reply_parser import ParsedToken
from mlx_gptoss.api.wire import JsonObject, StreamedProgress
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import (
    CONTENT_FILTER,
    LENGTH,
    STOP,
    TOOL_CALLS,
    Step,
)
from mlx_gptoss.harmony.events import (
    Answer,
    ParserEvent,
    Preamble,
    Reasoning,
    Refusal,
    ToolCall,
    ToolCallFailed,
)
from mlx_gptoss.harmony.render.prompt import render_messages

LOADED, UNLOADED = "load", "unload"


@dataclass
class ReplyPiece:
    """What one token adds to a reply, or all of them."""

    thinking: str = ""
    text: str = ""
    calls: list[wire.OllamaToolCall] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)  # of visible text

    def shows(self, *, logprobs: bool) -> bool:
        """Whether it is worth a line: half a character has only its logprob."""
        said = self.thinking or self.text or self.calls
        return bool(said or (logprobs and self.steps))


@dataclass(frozen=True)
class ReplyForm:
    """The form of the replies of a route; with `context`, the last one has it."""

    reply: type[wire.OllamaReply]
    fields: Callable[[ReplyPiece], JsonObject]
    context: bool = False


def chat_fields(piece: ReplyPiece) -> JsonObject:
    """Return a piece as `/api/chat` has it."""
    optional: JsonObject = {"thinking": piece.thinking} if piece.thinking else {}
    if piece.calls:
        optional["tool_calls"] = piece.calls
    message = wire.OllamaReplyMessage(role="assistant", content=piece.text, **optional)
    return {"message": message}


def generate_fields(piece: ReplyPiece) -> JsonObject:
    """Return a piece as `/api/generate` has it; it offers no tools."""
    optional = {"thinking": piece.thinking} if piece.thinking else {}
    return {"response": piece.text} | optional


CHAT_FORM = ReplyForm(wire.OllamaChatReply, chat_fields)
GENERATE_FORM = ReplyForm(wire.OllamaGenerateReply, generate_fields, context=True)
RAW_FORM = ReplyForm(wire.OllamaGenerateReply, generate_fields)


@dataclass(frozen=True)
class OllamaReplyOptions:
    """The reply to one request; times are in seconds, as `time.monotonic` has them."""

    form: ReplyForm
    model: str
    tokenizer: Tokenizer
    started: float
    load_seconds: float = 0.0
    logprobs: bool = False

    def line(self, piece: ReplyPiece, **more: Any) -> wire.OllamaReply:
        """Return a reply, or a line of a stream."""
        if self.logprobs and piece.steps:
            more["logprobs"] = token_logprobs(self.tokenizer, piece.steps)
        fields: JsonObject = self.form.fields(piece) | {"done": False} | more
        return self.form.reply(model=self.model, created_at=timestamp(), **fields)


class OllamaReplyBuilder:
    """Turns the tokens of one answer into pieces, and joins them."""

    def __init__(self) -> None:
        self.whole = ReplyPiece()
        self._text, self._thinking = JoinedText(), JoinedText()

    def add(self, token: ParsedToken) -> ReplyPiece:
        """Take one token; return what it adds."""
        piece = ReplyPiece()
        if token.visible and token.step is not None:
            piece.steps.append(token.step)
        for event in token.events:
            self._take(event, piece)
        self.whole.thinking += piece.thinking
        self.whole.text += piece.text
        self.whole.steps += piece.steps
        self.whole.calls += piece.calls
        return piece

    def _take(self, event: ParserEvent, piece: ReplyPiece) -> None:
        match event:
            case Reasoning(text):
                piece.thinking += self._thinking.add(text, Reasoning)
            case Preamble(text) | Answer(text) | Refusal(text):
                piece.text += self._text.add(text, type(event))
            case ToolCallFailed(cut_off=True):
                pass  # clients run every call they get
            case ToolCall(id, name, text) | ToolCallFailed(id, name, text):
                arguments, _ = arguments_object(text)
                index = len(self.whole.calls) + len(piece.calls)
                function = wire.OllamaFunctionCall(
                    index=index, name=name, arguments=arguments
                )
                piece.calls.append(wire.OllamaToolCall(id=id, function=function))


async def stream_lines(
    answer: AnswerStream, options: OllamaReplyOptions
) -> AsyncIterator[wire.OllamaReply]:
    """Yield the lines of a stream, as tokens arrive."""
    builder = OllamaReplyBuilder()
    async with aclosing(aiter(answer)) as tokens:
        async for token in tokens:
            if token.progress is not None:
                progress = StreamedProgress.of(token.progress)
                yield options.line(ReplyPiece(), prompt_progress=progress)
            elif (piece := builder.add(token)).shows(logprobs=options.logprobs):
                yield options.line(piece)
    yield options.line(ReplyPiece(), **await final_fields(answer, options))


async def build_reply(
    answer: AnswerStream, options: OllamaReplyOptions
) -> wire.OllamaReply:
    """Consume an answer and return the whole reply."""
    builder = OllamaReplyBuilder()
    async with aclosing(aiter(answer)) as tokens:
        async for token in tokens:
            builder.add(token)
    return options.line(builder.whole, **await final_fields(answer, options))


def empty_reply(
    form: ReplyForm, model: str, *, unloaded: bool, started: float, load_seconds: float
) -> wire.OllamaReply:
    """Return the reply to a request that only loads or unloads a model."""
    times = durations(started, load_seconds)
    fields = form.fields(ReplyPiece()) | times
    reason = UNLOADED if unloaded else LOADED
    return form.reply(
        model=model, created_at=timestamp(), done=True, done_reason=reason, **fields
    )


async def final_fields(answer: AnswerStream, options: OllamaReplyOptions) -> JsonObject:
    """Return why an answer ended and what it took.

    Times of zero are left out, as Ollama leaves them out: clients divide by them.
    """
    usage, stats = answer.usage, answer.stats
    fields: JsonObject = {
        "done": True,
        "done_reason": done_reason(answer.finish_reason),
        "prompt_eval_count": usage.prompt_tokens,
        "eval_count": usage.completion_tokens,
        **durations(options.started, options.load_seconds),
    }
    if stats is not None:
        prompt = nanoseconds(stats.prompt_seconds)
        generation = nanoseconds(stats.generation_seconds)
        times = {"prompt_eval_duration": prompt, "eval_duration": generation}
        fields |= {name: time for name, time in times.items() if time}
    if options.form.context:
        # In a thread: rendering a long conversation takes a while.
        fields["context"] = await asyncio.to_thread(context_ids, answer, options)
    return fields


def durations(started: float, load_seconds: float) -> JsonObject:
    """Return the time since a request came, and that of loading its model."""
    total = nanoseconds(time.monotonic() - started)
    return {"total_duration": total, "load_duration": nanoseconds(load_seconds)}


def context_ids(answer: AnswerStream, options: OllamaReplyOptions) -> list[int]:
    """Return the ids of the conversation with its answer, for `context`."""
    messages = [*answer.prompt.conversation, *answer.parser.messages]
    return render_messages(messages, options.tokenizer, complete=False)


def done_reason(reason: str) -> str:
    """Return `stop`, also behind calls, or `length` for everything that was cut."""
    if reason == CONTENT_FILTER:
        return CONTENT_FILTER
    return STOP if reason in (STOP, TOOL_CALLS) else LENGTH
