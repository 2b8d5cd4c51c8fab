"""Tool calls of a chat that wait for their results, and where each result goes.

Knows messages; nothing of models, prompts, or how a tool is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mlx_gptoss.harmony.events import ToolCall, ToolCallFailed
from mlx_gptoss.harmony.messages import Message


@dataclass(frozen=True)
class Call:
    """A call that waits for its result.

    `place` counts the calls of the same generation before it, answered or not.
    """

    id: str
    name: str
    arguments: str
    recipient: str = ""
    channel: str = "commentary"
    problem: str = ""  # why it cannot be run
    place: int = 0

    @property
    def event(self) -> ToolCall:
        return ToolCall(self.id, self.name, self.arguments)

    def result(self, text: str) -> Message:
        """Build the tool's message, on the channel of the call."""
        return Message(
            "tool",
            text,
            channel=self.channel,
            recipient="assistant",
            name=self.recipient,
        )


def insert_result(
    messages: list[Message], waiting: dict[str, Call], call: Call, text: str
) -> None:
    """Answer a waiting call, at the position that pairs the result with the call.

    Harmony pairs by position: results follow the calls, in the order of the calls.
    """
    before = sum(one.place < call.place for one in waiting.values())
    first = len(messages) - count_trailing_results(messages)
    messages.insert(first + call.place - before, call.result(text))
    waiting.pop(call.id, None)


def count_trailing_results(messages: Sequence[Message]) -> int:
    """Count the tool results at the end of a history."""
    others = (n for n, one in enumerate(reversed(messages)) if one.role != "tool")
    return next(others, len(messages))


@dataclass
class PendingCalls:
    """The calls of one chat: numbered, and kept until each has its result."""

    waiting: dict[str, Call] = field(default_factory=dict)
    made: int = 0
    _started: Call | None = None  # its message has not ended yet
    _place: int = 0  # of the next call in this generation

    def begin_generation(self) -> None:
        """Count the places of the next calls from zero."""
        self._place = 0

    def next_id(self) -> str:
        self.made += 1
        return f"call_{self.made}"

    def start(self, event: ToolCall | ToolCallFailed) -> None:
        """Record a call whose message has not ended yet."""
        if isinstance(event, ToolCall):
            self._started = Call(event.id, event.name, event.arguments)
        else:
            problem = f"Error: {event.problem}"
            self._started = Call(event.id, event.name, event.text, problem=problem)

    def finish(self, message: Message, *, kept: bool) -> None:
        """Make the started call wait for its result, if its message is kept."""
        started, self._started = self._started, None
        if kept and message.is_call and started is not None:
            self.waiting[started.id] = replace(
                started,
                recipient=message.recipient or "",
                channel=message.channel or "commentary",
                place=self._place,
            )
            self._place += 1

    def copy(self) -> "PendingCalls":
        return PendingCalls(dict(self.waiting), self.made)
