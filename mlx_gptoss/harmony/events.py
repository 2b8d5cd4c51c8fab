"""What happens in a turn, as data: text by its purpose, tool calls, the end.

`Parser` gives these while tokens arrive; `Chat` passes them on and adds
`ToolResult` and `Done`. Text comes in pieces that are complete characters.
"""

from dataclasses import dataclass
from typing import Any

from mlx_gptoss.harmony.messages import Message


class Event:
    """An event of `Chat.send`.

    One of Reasoning, Preamble, Answer, ToolCall, ToolCallFailed, ToolResult, and Done,
    which is the last.
    """


@dataclass(frozen=True)
class Reasoning(Event):
    """A piece of the chain of thought (channel `analysis`)."""

    text: str


@dataclass(frozen=True)
class Preamble(Event):
    """A piece of text for the user before tool calls (channel `commentary`)."""

    text: str


@dataclass(frozen=True)
class Answer(Event):
    """A piece of the answer (channel `final`)."""

    text: str


@dataclass(frozen=True)
class OtherText:
    """A piece of a message whose role is not the assistant's, as a model made up."""

    role: str
    text: str


@dataclass(frozen=True)
class ToolCallStarted:
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of the arguments as written; `ToolCall` has them whole, repaired."""

    id: str
    text: str


@dataclass(frozen=True)
class ToolCall(Event):
    """A call that may be run: the tool is known and the arguments were read.

    `arguments` is a JSON object as text; plain code for the `python` tool.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolCallFailed(Event):
    """A call that must not be run; `problem` is an answer for the model.

    `cut_off` tells that it has no end: the tokens ran out within it, or it was stopped.
    """

    id: str
    name: str
    text: str
    problem: str
    cut_off: bool = False


@dataclass(frozen=True)
class ToolResult(Event):
    id: str
    text: str


@dataclass(frozen=True)
class MessageEnded:
    """A whole message as history keeps it; not `complete` when it was cut off."""

    message: Message
    complete: bool = True


@dataclass(frozen=True)
class Repair:
    """Something malformed, and so what was done; `at` is the place of its token."""

    kind: str
    detail: str
    at: int


@dataclass(frozen=True)
class Repaired:
    repair: Repair


@dataclass(frozen=True)
class Done(Event):
    """The end of a turn: `finish_reason` is stop, length, tool_calls or cancelled."""

    finish_reason: str
    stats: Any = None


ParserEvent = (
    Reasoning
    | Preamble
    | Answer
    | OtherText
    | ToolCallStarted
    | ToolCallDelta
    | ToolCall
    | ToolCallFailed
    | MessageEnded
    | Repaired
)
