"""Write chat completions: answers to a reply, whole or in chunks."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.chat import wire
from mlx_gptoss.api.generation import AnswerStream, merge_answers
from mlx_gptoss.api.ids import new_id
from mlx_gptoss.api.logprobs import token_logprobs
from mlx_gptoss.api.prompt_logprobs import vllm_prompt_logprobs
from mlx_gptoss.api.reply_parser import ParsedToken
from mlx_gptoss.api.settings import BOTH, REASONING, REASONING_CONTENT, ServerSettings
from mlx_gptoss.api.usage import sum_usage
from mlx_gptoss.api.wire import CompletionUsage, StreamedProgress
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import (
    CONTENT_FILTER,
    LENGTH,
    STOP,
    TOOL_CALLS,
    Step,
)
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK
from mlx_gptoss.harmony.events import (
    Answer,
    ParserEvent,
    Preamble,
    Reasoning,
    Refusal,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
    ToolCallStarted,
)

HIDDEN = "hidden"
JSON_CLOSERS = " \t\r\n]}"  # characters that a JSON object may end with
FINISH_REASONS = {one: one for one in (STOP, TOOL_CALLS, LENGTH, CONTENT_FILTER)}


@dataclass(frozen=True)
class ChatReplyOptions:
    """The ids and options of the reply to one request."""

    model: str
    tokenizer: Tokenizer
    reasoning_fields: tuple[str, ...] = (REASONING,)
    logprobs: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: new_id("chatcmpl-", 12))
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(
        cls,
        request: wire.ChatRequest,
        model: str,
        runtime: Runtime,
        settings: ServerSettings,
    ) -> "ChatReplyOptions":
        stream_options = request.stream_options
        return cls(
            model,
            runtime.tokenizer,
            reasoning_fields(request, settings),
            logprobs=bool(request.logprobs),
            include_usage=bool(stream_options and stream_options.include_usage),
        )

    def chat_logprobs(self, steps: Sequence[Step]) -> wire.ChatLogprobs | None:
        if not self.logprobs:
            return None
        content = token_logprobs(self.tokenizer, steps)
        return wire.ChatLogprobs(content=content, refusal=None)


def reasoning_fields(
    request: wire.ChatRequest, settings: ServerSettings
) -> tuple[str, ...]:
    """Return the fields that reasoning is written to; none if it is hidden."""
    excluded = bool(request.reasoning and request.reasoning.exclude)
    if excluded or request.include_reasoning is False:
        return ()
    name = request.reasoning_format or settings.reasoning_field
    if name == HIDDEN:
        return ()
    return (REASONING, REASONING_CONTENT) if name == BOTH else (name,)


class JoinedText:
    """Joins texts of one field, with a blank line between messages."""

    def __init__(self) -> None:
        self.text = ""
        self._kind: object = None

    def add(self, text: str, kind: object) -> str:
        """Append a delta of a message of `kind`; return the delta to send."""
        delta = PARAGRAPH_BREAK + text if self.text and kind != self._kind else text
        self._kind = kind
        self.text += delta
        return delta


class StreamedArguments:
    """The arguments of a call in a stream, complete only if the call is.

    Closing brackets at the end are held back until more text follows or the call is
    complete. So what a client has of an unfinished call is not valid JSON.
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._held = ""

    @property
    def started(self) -> bool:
        """Whether any text has been sent."""
        return bool(self._sent)

    def add(self, text: str) -> str:
        """Append a delta; return the text that can be sent now."""
        text = self._held + text
        sendable = text.rstrip(JSON_CLOSERS)
        self._held = text[len(sendable) :]
        if sendable:
            self._sent.append(sendable)
        return sendable

    def end(self, arguments: str) -> str:
        """Return the unsent rest of the final `arguments`, which may be repaired."""
        sent = "".join(self._sent)
        if arguments.startswith(sent):
            return arguments.removeprefix(sent)
        return self._held


class ChatChoiceBuilder:
    """Turns the tokens of one answer into deltas, and in the end into a message."""

    def __init__(self, options: ChatReplyOptions) -> None:
        self.options = options
        self._content, self._reasoning = JoinedText(), JoinedText()
        self._calls: dict[str, wire.ChatToolCall] = {}
        self._arguments: dict[str, StreamedArguments] = {}
        self._steps: list[Step] = []
        self._refusal: str | None = None

    def add(
        self, token: ParsedToken
    ) -> tuple[list[wire.ChatDelta], wire.ChatLogprobs | None]:
        """Take one token; return its deltas, and its logprobs if it is visible."""
        logprobs = None
        if token.visible and token.step is not None:
            self._steps.append(token.step)
            logprobs = self.options.chat_logprobs([token.step])
        deltas = [delta for event in token.events for delta in self._deltas(event)]
        return deltas, logprobs

    def _deltas(self, event: ParserEvent) -> list[wire.ChatDelta]:
        match event:
            case Reasoning(text):
                fields = self._reasoning_fields(self._reasoning.add(text, Reasoning))
                return [wire.ChatDelta(**fields)] if fields else []
            case Preamble(text) | Answer(text):
                return [wire.ChatDelta(content=self._content.add(text, type(event)))]
            case Refusal(text):
                self._refusal = text
                return [wire.ChatDelta(refusal=text)]
            case ToolCallStarted(call_id, name):
                function = wire.ChatFunctionCall(name=name, arguments="")
                self._calls[call_id] = wire.ChatToolCall(
                    id=call_id, type="function", function=function
                )
                self._arguments[call_id] = StreamedArguments()
            case ToolCallDelta(call_id, text):
                arguments = self._arguments[call_id]
                first = not arguments.started
                if delta := arguments.add(text):
                    return self._call_deltas(call_id, delta, first=first)
            case ToolCallFailed(call_id, _, _, _, cut_off=True):
                del self._calls[call_id]
            case ToolCall(call_id, _, text) | ToolCallFailed(call_id, _, text):
                arguments = self._arguments[call_id]
                self._calls[call_id].function.arguments = text
                rest, first = arguments.end(text), not arguments.started
                if rest or first:
                    return self._call_deltas(call_id, rest, first=first)
        return []

    def _call_deltas(
        self, call_id: str, text: str, *, first: bool
    ) -> list[wire.ChatDelta]:
        """Write a piece of a call's arguments; the `first` one follows the name."""
        index, call = list(self._calls).index(call_id), self._calls[call_id]
        deltas: list[wire.ChatToolCallDelta] = []
        if first:
            named = wire.ChatFunctionDelta(name=call.function.name, arguments="")
            deltas.append(
                wire.ChatToolCallDelta(
                    index=index, id=call_id, type="function", function=named
                )
            )
        if text:
            piece = wire.ChatFunctionDelta(arguments=text)
            deltas.append(wire.ChatToolCallDelta(index=index, function=piece))
        return [wire.ChatDelta(tool_calls=[delta]) for delta in deltas]

    @property
    def message(self) -> wire.ChatReplyMessage:
        reasoning, content = self._reasoning.text, self._content.text
        optional = self._reasoning_fields(reasoning) if reasoning else {}
        omitted = self._calls or self._refusal is not None
        if self._calls:
            optional["tool_calls"] = list(self._calls.values())
        return wire.ChatReplyMessage(
            role="assistant",
            content=content if content or not omitted else None,
            refusal=self._refusal,
            annotations=[],
            **optional,
        )

    def choice(self, index: int, answer: AnswerStream) -> wire.ChatChoice:
        return wire.ChatChoice(
            index=index,
            message=self.message,
            logprobs=self.options.chat_logprobs(self._steps),
            **finish_fields(answer),
        )

    def _reasoning_fields(self, text: str) -> dict[str, Any]:
        return dict.fromkeys(self.options.reasoning_fields, text)


def finish_fields(answer: AnswerStream) -> dict[str, Any]:
    """Describe the end of an answer; one that the server cancelled is `length`."""
    reason = FINISH_REASONS.get(answer.finish_reason, LENGTH)
    fields: dict[str, Any] = {"finish_reason": reason}
    if answer.finish_details:
        fields["finish_details"] = list(answer.finish_details)
    return fields


async def build_reply(
    answers: Sequence[AnswerStream], options: ChatReplyOptions
) -> wire.ChatCompletion:
    """Consume all answers and return the whole reply."""
    builders = [ChatChoiceBuilder(options) for _ in answers]
    async for index, token in merge_answers(answers):
        if token is not None:
            builders[index].add(token)
    optional: dict[str, Any] = {}
    if (found := answers[0].prompt_logprobs) is not None:
        ids = answers[0].prompt.ids
        optional["prompt_logprobs"] = await asyncio.to_thread(
            vllm_prompt_logprobs, ids, found, options.tokenizer
        )
    return wire.ChatCompletion(
        id=options.id,
        object="chat.completion",
        created=options.created,
        model=options.model,
        choices=[
            builder.choice(index, answers[index])
            for index, builder in enumerate(builders)
        ],
        usage=sum_usage(answers),
        **optional,
    )


async def stream_chunks(
    answers: Sequence[AnswerStream], options: ChatReplyOptions
) -> AsyncIterator[wire.ChatCompletionChunk]:
    """Yield the reply in chunks, as tokens arrive."""
    builders = [ChatChoiceBuilder(options) for _ in answers]
    for index in range(len(answers)):
        yield _delta_chunk(options, index, wire.ChatDelta(role="assistant", content=""))
    async for index, token in merge_answers(answers):
        if token is None:
            fields = finish_fields(answers[index])
            yield _delta_chunk(options, index, wire.ChatDelta(), **fields)
            continue
        if token.progress is not None:
            chunk = _delta_chunk(options, index, wire.ChatDelta())
            chunk.prompt_progress = StreamedProgress.of(token.progress)
            yield chunk
            continue
        deltas, logprobs = builders[index].add(token)
        if logprobs is not None and not deltas:  # a part of a character
            deltas = [wire.ChatDelta(content="")]
        for delta in deltas:
            yield _delta_chunk(options, index, delta, logprobs)
            logprobs = None
    if options.include_usage:
        yield _chunk(options, [], sum_usage(answers))


def _delta_chunk(
    options: ChatReplyOptions,
    index: int,
    delta: wire.ChatDelta,
    logprobs: wire.ChatLogprobs | None = None,
    **finish: Any,
) -> wire.ChatCompletionChunk:
    finish = finish or {"finish_reason": None}
    choice = wire.ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, **finish)
    return _chunk(options, [choice], None)


def _chunk(
    options: ChatReplyOptions,
    choices: list[wire.ChatChunkChoice],
    usage: CompletionUsage | None,
) -> wire.ChatCompletionChunk:
    optional: dict[str, Any] = {"usage": usage} if options.include_usage else {}
    return wire.ChatCompletionChunk(
        id=options.id,
        object="chat.completion.chunk",
        created=options.created,
        model=options.model,
        choices=choices,
        **optional,
    )
