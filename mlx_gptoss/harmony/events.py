"""Events of a turn, as data: text by channel, tool calls, the end.

`Parser` emits them while tokens arrive; `Chat` passes them on and adds `ToolResult` and
`Done`. Text comes in pieces of whole characters.
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
    """A piece of the chain of thought (channel `analysis`): `text` to append."""

    text: str


@dataclass(frozen=True)
class Preamble(Event):
    """A piece of text for the user before tool calls (channel `commentary`)."""

    text: str


@dataclass(frozen=True)
class Answer(Event):
    """A piece of the answer (channel `final`): `text` to append to what came before."""

    text: str


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer: a guard refused the request, not the model."""

    text: str


@dataclass(frozen=True)
class OtherText:
    """A piece of a message by another role than the assistant, made up by the model."""

    role: str
    text: str


@dataclass(frozen=True)
class ToolCallStarted:
    """A call whose tool is known and whose arguments follow."""

    id: str
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of the arguments as sampled; `ToolCall` has all of them, repaired."""

    id: str
    text: str


@dataclass(frozen=True)
class ToolCall(Event):
    """A call that may be run: its tool is known and its arguments are parsed.

    `id` names the call in a ToolResult and in `submit_result`, `name` the tool;
    `arguments` is a JSON object as text; plain code for the `python` tool.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolCallFailed(Event):
    """A call that must not be run; `problem` is the result to show the model.

    `id` and `name` are those of a ToolCall, `text` is what stands as its arguments.
    `cut_off` marks a call without an end: the token limit was reached or the turn was
    stopped within it.
    """

    id: str
    name: str
    text: str
    problem: str
    cut_off: bool = False


@dataclass(frozen=True)
class ToolResult(Event):
    """The result of the call `id`: the `text` that the model reads."""

    id: str
    text: str


@dataclass(frozen=True)
class MessageEnded:
    """A message as history keeps it; not `complete` if it was cut off."""

    message: Message
    complete: bool = True


@dataclass(frozen=True)
class Repair:
    """A correction of something malformed; `at` is the index of its token."""

    kind: str
    detail: str
    at: int


@dataclass(frozen=True)
class Repaired:
    """A repair was made."""

    repair: Repair


@dataclass(frozen=True)
class Done(Event):
    """The end of a turn; `finish_reason` is stop, length, tool_calls or cancelled.

    `stats` are the Statistics of the turn: counts of tokens, seconds, peak memory.
    """

    finish_reason: str
    stats: Any = None


ParserEvent = (
    Reasoning
    | Preamble
    | Answer
    | Refusal
    | OtherText
    | ToolCallStarted
    | ToolCallDelta
    | ToolCall
    | ToolCallFailed
    | MessageEnded
    | Repaired
)
