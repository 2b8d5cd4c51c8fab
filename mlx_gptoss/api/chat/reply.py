"""What is heard to the message of a chat completion, whole or in chunks."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from mlx_gptoss.api.chat import wire_reply as wire
from mlx_gptoss.api.chat.reply_style import Manner
from mlx_gptoss.api.generation import Turn, merged
from mlx_gptoss.api.text_parser import Heard
from mlx_gptoss.api.usage import usage_of
from mlx_gptoss.api.wire import TokenUsage
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

CLOSING = " \t\r\n]}"  # what JSON may end with
BETWEEN = "\n\n"  # a preamble and the answer behind it
FINISH = {STOP: STOP, TOOL_CALLS: TOOL_CALLS, LENGTH: LENGTH}


class Writing:
    """Joins texts of one purpose, with a blank line between messages."""

    def __init__(self) -> None:
        self.text = ""
        self._kind: object = None

    def add(self, text: str, kind: object) -> str:
        """Take a piece of a message of `kind`; return it as it is to be shown."""
        shown = BETWEEN + text if self.text and kind != self._kind else text
        self._kind = kind
        self.text += shown
        return shown


class Arguments:
    """The arguments of a call as a stream shows them: whole only once the call is.

    The brackets they may end with are held back until something follows, or the call
    has come to its end. So what a client has of a call that was cut is no JSON.
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._held = ""

    @property
    def begun(self) -> bool:
        """Whether any of it has been shown."""
        return bool(self._sent)

    def add(self, text: str) -> str:
        """Take a piece; return what may be shown now."""
        text = self._held + text
        shown = text.rstrip(CLOSING)
        self._held = text[len(shown) :]
        if shown:
            self._sent.append(shown)
        return shown

    def end(self, whole: str) -> str:
        """Return what is left to show of the arguments as they are to be run."""
        sent = "".join(self._sent)
        return whole.removeprefix(sent) if whole.startswith(sent) else self._held


class Collected:
    """What one turn has said: as deltas while it goes on, at its end as a message."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self._content, self._reasoning = Writing(), Writing()
        self._calls: dict[str, wire.ToolCallReply] = {}
        self._arguments: dict[str, Arguments] = {}
        self._steps: list[Step] = []

    def add(self, heard: Heard) -> tuple[list[wire.Delta], wire.Logprobs | None]:
        """Take one token; return the deltas it makes, and its logprobs if shown."""
        logprobs = None
        if heard.visible and heard.step is not None:
            self._steps.append(heard.step)
            logprobs = self.manner.token_logprobs([heard.step])
        deltas = [one for event in heard.events for one in self._deltas(event)]
        return deltas, logprobs

    def _deltas(self, event: ParserEvent) -> list[wire.Delta]:
        match event:
            case Reasoning(text):
                shown = self._reasoning.add(text, Reasoning)
                fields = self.manner.reasoning(shown)
                return [wire.Delta(**fields)] if fields else []
            case Preamble(text) | Answer(text):
                return [wire.Delta(content=self._content.add(text, type(event)))]
            case ToolCallStarted(call_id, name):
                function = wire.CalledFunction(name=name, arguments="")
                self._calls[call_id] = wire.ToolCallReply(
                    id=call_id, type="function", function=function
                )
                self._arguments[call_id] = Arguments()
            case ToolCallDelta(call_id, text):
                arguments = self._arguments[call_id]
                first = not arguments.begun
                if shown := arguments.add(text):
                    return self._more(call_id, shown, first=first)
            case ToolCallFailed(call_id, _, _, _, cut_off=True):
                del self._calls[call_id]
            case ToolCall(call_id, _, whole) | ToolCallFailed(call_id, _, whole):
                arguments = self._arguments[call_id]
                self._calls[call_id].function.arguments = whole
                shown, first = arguments.end(whole), not arguments.begun
                if shown or first:
                    return self._more(call_id, shown, first=first)
        return []

    def _more(self, call_id: str, text: str, *, first: bool) -> list[wire.Delta]:
        """The next piece of a call's arguments; with the first one its name."""
        index, called = list(self._calls).index(call_id), self._calls[call_id]
        pieces = [wire.FunctionDelta(arguments=text)] if text else []
        deltas = [wire.ToolCallDelta(index=index, function=one) for one in pieces]
        if first:
            begun = wire.FunctionDelta(name=called.function.name, arguments="")
            deltas.insert(
                0,
                wire.ToolCallDelta(
                    index=index, id=call_id, type="function", function=begun
                ),
            )
        return [wire.Delta(tool_calls=[one]) for one in deltas]

    @property
    def message(self) -> wire.MessageReply:
        shown = self._reasoning.text
        more: dict[str, Any] = self.manner.reasoning(shown) if shown else {}
        if self._calls:
            more["tool_calls"] = list(self._calls.values())
        content = self._content.text
        return wire.MessageReply(
            role="assistant",
            content=content if content or not self._calls else None,
            refusal=None,
            annotations=[],
            **more,
        )

    def choice(self, index: int, turn: Turn) -> wire.Choice:
        return wire.Choice(
            index=index,
            message=self.message,
            logprobs=self.manner.token_logprobs(self._steps),
            **ending(turn),
        )


def ending(turn: Turn) -> dict[str, Any]:
    """Why a turn ended; one that the server cancelled has been cut."""
    told: dict[str, Any] = {"finish_reason": FINISH.get(turn.finish_reason, LENGTH)}
    if turn.finish_details:
        told["finish_details"] = list(turn.finish_details)
    return told


async def whole_reply(turns: Sequence[Turn], manner: Manner) -> wire.ChatReply:
    """Read all turns to their end."""
    collected = [Collected(manner) for _ in turns]
    async for number, heard in merged(turns):
        if heard is not None:
            collected[number].add(heard)
    return wire.ChatReply(
        id=manner.id,
        object="chat.completion",
        created=manner.created,
        model=manner.model,
        choices=[
            one.choice(number, turns[number]) for number, one in enumerate(collected)
        ],
        usage=usage_of(turns),
    )


async def chunks(turns: Sequence[Turn], manner: Manner) -> AsyncIterator[wire.Chunk]:
    """The reply piece by piece, as its tokens come."""
    collected = [Collected(manner) for _ in turns]
    for number in range(len(turns)):
        yield _chunk(manner, number, wire.Delta(role="assistant", content=""))
    async for number, heard in merged(turns):
        if heard is None:
            yield _chunk(manner, number, wire.Delta(), **ending(turns[number]))
            continue
        deltas, logprobs = collected[number].add(heard)
        if logprobs is not None and not deltas:  # a part of a character
            deltas = [wire.Delta(content="")]
        for delta in deltas:
            yield _chunk(manner, number, delta, logprobs)
            logprobs = None
    if manner.include_usage:
        yield _written(manner, [], usage_of(turns))


def _chunk(
    manner: Manner,
    number: int,
    delta: wire.Delta,
    logprobs: wire.Logprobs | None = None,
    **ending: Any,
) -> wire.Chunk:
    ending = ending or {"finish_reason": None}
    choice = wire.ChunkChoice(index=number, delta=delta, logprobs=logprobs, **ending)
    return _written(manner, [choice], None)


def _written(
    manner: Manner, choices: list[wire.ChunkChoice], usage: TokenUsage | None
) -> wire.Chunk:
    more: dict[str, Any] = {"usage": usage} if manner.include_usage else {}
    return wire.Chunk(
        id=manner.id,
        object="chat.completion.chunk",
        created=manner.created,
        model=manner.model,
        choices=choices,
        **more,
    )
