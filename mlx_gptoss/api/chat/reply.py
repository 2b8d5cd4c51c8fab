"""What is heard to the message of a chat completion, whole or in chunks."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from mlx_gptoss.api.chat import wire
from mlx_gptoss.api.chat.reply_style import ChatReplyOptions
from mlx_gptoss.api.generation import AnswerStream, merge_answers
from mlx_gptoss.api.text_parser import ParsedToken
from mlx_gptoss.api.usage import sum_usage
from mlx_gptoss.api.wire import CompletionUsage
from mlx_gptoss.engine.outputs import LENGTH, STOP, TOOL_CALLS, Step
from mlx_gptoss.harmony.events import (
    Answer,
    ParserEvent,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
    ToolCallStarted,
)

JSON_CLOSERS = " \t\r\n]}"  # what JSON may end with
SEPARATOR = "\n\n"  # a preamble and the answer behind it
FINISH_REASONS = {STOP: STOP, TOOL_CALLS: TOOL_CALLS, LENGTH: LENGTH}


class JoinedText:
    """Joins texts of one purpose, with a blank line between messages."""

    def __init__(self) -> None:
        self.text = ""
        self._kind: object = None

    def add(self, text: str, kind: object) -> str:
        """Take a piece of a message of `kind`; return it as it is to be shown."""
        shown = SEPARATOR + text if self.text and kind != self._kind else text
        self._kind = kind
        self.text += shown
        return shown


class StreamedArguments:
    """The arguments of a call as a stream shows them: whole only once the call is.

    The brackets they may end with are held back until something follows, or the call
    has come to its end. So what a client has of a call that was cut is no JSON.
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._held = ""

    @property
    def started(self) -> bool:
        """Whether any of it has been shown."""
        return bool(self._sent)

    def add(self, text: str) -> str:
        """Take a piece; return what may be shown now."""
        text = self._held + text
        shown = text.rstrip(JSON_CLOSERS)
        self._held = text[len(shown) :]
        if shown:
            self._sent.append(shown)
        return shown

    def end(self, whole: str) -> str:
        """Return what is left to show of the arguments as they are to be run."""
        sent = "".join(self._sent)
        return whole.removeprefix(sent) if whole.startswith(sent) else self._held


class ChatChoiceBuilder:
    """What one turn has said: as deltas while it goes on, at its end as a message."""

    def __init__(self, manner: ChatReplyOptions) -> None:
        self.options = manner
        self._content, self._reasoning = JoinedText(), JoinedText()
        self._calls: dict[str, wire.ChatToolCall] = {}
        self._arguments: dict[str, StreamedArguments] = {}
        self._steps: list[Step] = []

    def add(
        self, heard: ParsedToken
    ) -> tuple[list[wire.ChatDelta], wire.ChatLogprobs | None]:
        """Take one token; return the deltas it makes, and its logprobs if shown."""
        logprobs = None
        if heard.visible and heard.step is not None:
            self._steps.append(heard.step)
            logprobs = self.options.token_logprobs([heard.step])
        deltas = [one for event in heard.events for one in self._deltas(event)]
        return deltas, logprobs

    def _deltas(self, event: ParserEvent) -> list[wire.ChatDelta]:
        match event:
            case Reasoning(text):
                shown = self._reasoning.add(text, Reasoning)
                fields = self.options.reasoning_deltas(shown)
                return [wire.ChatDelta(**fields)] if fields else []
            case Preamble(text) | Answer(text):
                return [wire.ChatDelta(content=self._content.add(text, type(event)))]
            case ToolCallStarted(call_id, name):
                function = wire.ChatFunctionCall(name=name, arguments="")
                self._calls[call_id] = wire.ChatToolCall(
                    id=call_id, type="function", function=function
                )
                self._arguments[call_id] = StreamedArguments()
            case ToolCallDelta(call_id, text):
                arguments = self._arguments[call_id]
                first = not arguments.started
                if shown := arguments.add(text):
                    return self._arguments_deltas(call_id, shown, first=first)
            case ToolCallFailed(call_id, _, _, _, cut_off=True):
                del self._calls[call_id]
            case ToolCall(call_id, _, whole) | ToolCallFailed(call_id, _, whole):
                arguments = self._arguments[call_id]
                self._calls[call_id].function.arguments = whole
                shown, first = arguments.end(whole), not arguments.started
                if shown or first:
                    return self._arguments_deltas(call_id, shown, first=first)
        return []

    def _arguments_deltas(
        self, call_id: str, text: str, *, first: bool
    ) -> list[wire.ChatDelta]:
        """The next piece of a call's arguments; with the first one its name."""
        index, called = list(self._calls).index(call_id), self._calls[call_id]
        pieces = [wire.ChatFunctionDelta(arguments=text)] if text else []
        deltas = [wire.ChatToolCallDelta(index=index, function=one) for one in pieces]
        if first:
            begun = wire.ChatFunctionDelta(name=called.function.name, arguments="")
            deltas.insert(
                0,
                wire.ChatToolCallDelta(
                    index=index, id=call_id, type="function", function=begun
                ),
            )
        return [wire.ChatDelta(tool_calls=[one]) for one in deltas]

    @property
    def message(self) -> wire.ChatReplyMessage:
        shown = self._reasoning.text
        more: dict[str, Any] = self.options.reasoning_deltas(shown) if shown else {}
        if self._calls:
            more["tool_calls"] = list(self._calls.values())
        content = self._content.text
        return wire.ChatReplyMessage(
            role="assistant",
            content=content if content or not self._calls else None,
            refusal=None,
            annotations=[],
            **more,
        )

    def choice(self, index: int, turn: AnswerStream) -> wire.ChatChoice:
        return wire.ChatChoice(
            index=index,
            message=self.message,
            logprobs=self.options.token_logprobs(self._steps),
            **finish_fields(turn),
        )


def finish_fields(turn: AnswerStream) -> dict[str, Any]:
    """Why a turn ended; one that the server cancelled has been cut."""
    told: dict[str, Any] = {
        "finish_reason": FINISH_REASONS.get(turn.finish_reason, LENGTH)
    }
    if turn.finish_details:
        told["finish_details"] = list(turn.finish_details)
    return told


async def build_reply(
    turns: Sequence[AnswerStream], manner: ChatReplyOptions
) -> wire.ChatCompletion:
    """Read all turns to their end."""
    collected = [ChatChoiceBuilder(manner) for _ in turns]
    async for number, heard in merge_answers(turns):
        if heard is not None:
            collected[number].add(heard)
    return wire.ChatCompletion(
        id=manner.id,
        object="chat.completion",
        created=manner.created,
        model=manner.model,
        choices=[
            one.choice(number, turns[number]) for number, one in enumerate(collected)
        ],
        usage=sum_usage(turns),
    )


async def stream_chunks(
    turns: Sequence[AnswerStream], manner: ChatReplyOptions
) -> AsyncIterator[wire.ChatCompletionChunk]:
    """The reply piece by piece, as its tokens come."""
    collected = [ChatChoiceBuilder(manner) for _ in turns]
    for number in range(len(turns)):
        yield _chunk(manner, number, wire.ChatDelta(role="assistant", content=""))
    async for number, heard in merge_answers(turns):
        if heard is None:
            yield _chunk(
                manner, number, wire.ChatDelta(), **finish_fields(turns[number])
            )
            continue
        deltas, logprobs = collected[number].add(heard)
        if logprobs is not None and not deltas:  # a part of a character
            deltas = [wire.ChatDelta(content="")]
        for delta in deltas:
            yield _chunk(manner, number, delta, logprobs)
            logprobs = None
    if manner.include_usage:
        yield _new_chunk(manner, [], sum_usage(turns))


def _chunk(
    manner: ChatReplyOptions,
    number: int,
    delta: wire.ChatDelta,
    logprobs: wire.ChatLogprobs | None = None,
    **ending: Any,
) -> wire.ChatCompletionChunk:
    ending = ending or {"finish_reason": None}
    choice = wire.ChatChunkChoice(
        index=number, delta=delta, logprobs=logprobs, **ending
    )
    return _new_chunk(manner, [choice], None)


def _new_chunk(
    manner: ChatReplyOptions,
    choices: list[wire.ChatChunkChoice],
    usage: CompletionUsage | None,
) -> wire.ChatCompletionChunk:
    more: dict[str, Any] = {"usage": usage} if manner.include_usage else {}
    return wire.ChatCompletionChunk(
        id=manner.id,
        object="chat.completion.chunk",
        created=manner.created,
        model=manner.model,
        choices=choices,
        **more,
    )
