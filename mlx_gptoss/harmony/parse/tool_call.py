"""Parse a tool call: its argument text, once whole, becomes a ToolCall or a failure.

A call on `analysis` counts only if its tool was offered and its arguments are a JSON
object that the tool's schema allows (where the caller gave one). Otherwise the text is
reasoning, or, when the model stopped to wait for a result (`<|call|>`), a failed call
whose problem the model is shown. Its events are therefore held back until the end.
Built-in tools are called on `analysis` as a matter of course: they only need to be
offered. Knows nothing of tokens.
"""

import json
from dataclasses import dataclass, replace

from mlx_gptoss.harmony.events import (
    ParserEvent,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
    ToolCallStarted,
)
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.parse.argument_errors import argument_errors
from mlx_gptoss.harmony.parse.arguments import parse_arguments
from mlx_gptoss.harmony.parse.tool_names import CalledTool
from mlx_gptoss.harmony.special_tokens import CALL

CUT_OFF = "the call was cut off before its end"
NOT_ON_ANALYSIS = "calls on the analysis channel are not run: use commentary"
RepairNote = tuple[str, str]  # kind and detail of a repair


@dataclass(frozen=True)
class EndedMessage:
    """A message as history keeps it, the last events of its text, and repairs made."""

    message: Message
    events: list[ParserEvent]
    repairs: list[RepairNote]


@dataclass(frozen=True)
class OpenCall:
    """A tool call whose arguments are arriving.

    `held` marks a call on `analysis` whose events wait until it is whole. `missing` is
    the problem to report if the tool was not offered.
    """

    id: str
    tool: CalledTool
    held: bool
    accepted_on_analysis: bool
    missing: str

    def start_events(self) -> list[ParserEvent]:
        return [] if self.held else [ToolCallStarted(self.id, self.tool.name)]

    def text_events(self, text: str) -> list[ParserEvent]:
        return [] if self.held else [ToolCallDelta(self.id, text)]

    def end(
        self, message: Message, closer: str | None, *, complete: bool
    ) -> EndedMessage:
        """Decide what the call was. `message` has its whole text as content."""
        text = message.text
        kept = self._addressed(message)
        if not complete:
            return EndedMessage(kept, self._failed(text, CUT_OFF, cut_off=True), [])
        arguments, repairs, problem = self._parse(message)
        if self.held and problem and closer != CALL:
            thought = Message(message.role, text, message.channel)
            detail = f"text to `{kept.recipient}` was kept as analysis"
            return EndedMessage(thought, [Reasoning(text)], [("not-a-call", detail)])
        if problem:
            return EndedMessage(kept, self._failed(text, problem), repairs)
        events: list[ParserEvent] = []
        if self.held:
            repairs.append(("call-on-analysis", "a call on analysis was accepted"))
            events.append(ToolCallStarted(self.id, self.tool.name))
            events.append(ToolCallDelta(self.id, text))
        events.append(ToolCall(self.id, self.tool.name, arguments))
        return EndedMessage(replace(kept, content=arguments), events, repairs)

    def _addressed(self, message: Message) -> Message:
        """Return the message with the recipient spelled as the tool is offered."""
        if not self.tool.offered:
            return message
        return replace(message, recipient=self.tool.recipient)

    def _parse(self, message: Message) -> tuple[str, list[RepairNote], str]:
        """Return the arguments, the repairs made, and why the call cannot be run."""
        text = message.text
        repairs: list[RepairNote] = []
        if self.tool.recipient != message.recipient:
            detail = f"`{message.recipient}` is `{self.tool.recipient}`"
            repairs.append(("tool-name", detail))
        if not self.tool.offered:
            return text, repairs, self.missing
        if self.held and not self.accepted_on_analysis:
            return text, repairs, NOT_ON_ANALYSIS
        if not self.tool.takes_json:
            return text, repairs, ""
        arguments = parse_arguments(text)
        if arguments.repair:
            repairs.append(("arguments", arguments.repair))
        problem = arguments.problem or ""
        if self.held and not problem:
            problem = self._schema_problem(arguments.text)
        return arguments.text, repairs, problem

    def _schema_problem(self, arguments: str) -> str:
        """Say how `arguments` violate the tool's schema, if it was given."""
        if self.tool.parameters is None:
            return ""
        try:
            return "; ".join(
                argument_errors(json.loads(arguments), self.tool.parameters)
            )
        except RecursionError:
            return "the arguments are nested too deeply"

    def _failed(
        self, text: str, problem: str, *, cut_off: bool = False
    ) -> list[ParserEvent]:
        name = self.tool.name
        started = [ToolCallStarted(self.id, name)] if self.held else []
        return [*started, ToolCallFailed(self.id, name, text, problem, cut_off)]
