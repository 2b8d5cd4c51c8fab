"""The tools of a conversation, and the calls that wait for their results.

Knows messages and tools; nothing of models, prompts or of when a call is run.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mlx_gptoss.chat.tools import (
    Approval,
    ApprovalLike,
    ToolLike,
    ToolSet,
    tools_by_name,
)
from mlx_gptoss.harmony.constrain.constraints import (
    ToolConstraint,
    built_in_constraints,
    function_constraints,
)
from mlx_gptoss.harmony.events import ToolCall, ToolCallFailed
from mlx_gptoss.harmony.messages import Message, ToolDescription, ToolNamespace

TOOL_SECONDS = 120.0


@dataclass(frozen=True)
class Call:
    """A call in the history that waits for its result; `place` calls were before it.

    Those are the calls of the same generation, answered or not.
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
        """Build the tool's message; it answers on the channel of the call."""
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
    """Answer a waiting call, where the model reads the result as that of this call.

    Harmony pairs by place: results stand behind the calls, in the order of the calls.
    """
    before = sum(one.place < call.place for one in waiting.values())
    first = len(messages) - count_trailing_results(messages)
    messages.insert(first + call.place - before, call.result(text))
    waiting.pop(call.id, None)


def count_trailing_results(messages: Sequence[Message]) -> int:
    """Count the results that nobody has said anything behind."""
    others = (n for n, one in enumerate(reversed(messages)) if one.role != "tool")
    return next(others, len(messages))


@dataclass
class PendingCalls:
    """The calls of one conversation: numbered, and kept until they are answered."""

    waiting: dict[str, Call] = field(default_factory=dict)
    made: int = 0
    _started: Call | None = None  # until its message has ended
    _place: int = 0  # of the next call of this generation

    def begin_generation(self) -> None:
        """Let the calls of another generation come."""
        self._place = 0

    def next_id(self) -> str:
        self.made += 1
        return f"call_{self.made}"

    def start(self, event: ToolCall | ToolCallFailed) -> None:
        """Take note of a call whose message has not ended yet."""
        if isinstance(event, ToolCall):
            self._started = Call(event.id, event.name, event.arguments)
        else:
            problem = f"Error: {event.problem}"
            self._started = Call(event.id, event.name, event.text, problem=problem)

    def finish(self, message: Message, *, kept: bool) -> None:
        """Let the call wait whose message has ended, if that is kept."""
        heard, self._started = self._started, None
        if kept and message.is_call and heard is not None:
            self.waiting[heard.id] = replace(
                heard,
                recipient=message.recipient or "",
                channel=message.channel or "commentary",
                place=self._place,
            )
            self._place += 1

    def copy(self) -> "PendingCalls":
        return PendingCalls(dict(self.waiting), self.made)


class Toolbox:
    """The tools a conversation may use, and who says which calls run.

    A tool runs in a thread of its own for at most `seconds`; with None, in that of
    the caller.
    """

    def __init__(
        self,
        tools: Iterable[ToolLike] = (),
        approve: ApprovalLike = "allow",
        seconds: float | None = TOOL_SECONDS,
    ) -> None:
        given = list(tools)
        self.tools = tools_by_name(given)
        self.approval = Approval.of(approve)
        self.seconds = seconds
        self._sets = [one for one in given if isinstance(one, ToolSet)]

    def reset(self) -> None:
        """Put back to its beginning what the tools keep."""
        for tool_set in self._sets:
            tool_set.reset()

    @property
    def functions(self) -> list[ToolDescription]:
        """The tools of the developer message; the others are built-in."""
        tools = self.tools.values()
        return [tool.description for tool in tools if tool.namespace is None]

    @property
    def targets(self) -> list[ToolConstraint]:
        """What may be called, and with what."""
        return function_constraints(self.functions) + built_in_constraints(
            self.namespaces
        )

    @property
    def namespaces(self) -> tuple[ToolNamespace, ...]:
        """The built-in tools, as the system message declares them."""
        found = [tool.namespace for tool in self.tools.values() if tool.namespace]
        return tuple(one for n, one in enumerate(found) if one not in found[:n])

    @property
    def built_in(self) -> list[str]:
        return [name for name, tool in self.tools.items() if tool.namespace]

    def run(self, call: Call, cancelled: Callable[[], bool]) -> str | None:
        """Run a call that is approved, or say why not; None if that is not for us."""
        if call.problem:
            return call.problem
        tool = self.tools.get(call.name)
        if tool is None or tool.function is None:
            return None
        return self.approval.refusal(call.event) or tool.run(
            call.arguments, seconds=self.seconds, cancelled=cancelled
        )
