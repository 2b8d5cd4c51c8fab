"""A message whose header is known and whose text is arriving.

Decides by channel and recipient what the text is, and at the end whether a call
may be run. Knows nothing of tokens.
"""

import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from mlx_gptoss.harmony.events import (
    Answer,
    OtherText,
    ParserEvent,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
    ToolCallStarted,
)
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.parse import validate
from mlx_gptoss.harmony.parse.arguments import parse_arguments
from mlx_gptoss.harmony.parse.header import Header
from mlx_gptoss.harmony.parse.tool_names import CalledTool, OfferedTools

CUT_OFF = "the call was cut off before its end"
NOT_ON_ANALYSIS = "calls on the analysis channel are not run: use commentary"
RepairNote = tuple[str, str]  # kind and detail of a repair


def text_event(message: Message, text: str | None = None) -> ParserEvent:
    """The event for `text` (or all the text) of a message that is not a call."""
    piece = message.text if text is None else text
    if message.role != "assistant":
        return OtherText(message.role, piece)
    kinds = {"analysis": Reasoning, "commentary": Preamble}
    return kinds.get(message.channel or "", Answer)(piece)


@dataclass
class OpenMessage:
    """An open message. A call on analysis is `held`: told only when it is whole."""

    message: Message
    tool: CalledTool | None = None
    call_id: str = ""
    held: bool = False
    accepted_on_analysis: bool = True
    missing: str = ""  # what to tell the model if the tool is not there
    pieces: list[str] = field(default_factory=list)
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def start_events(self) -> list[ParserEvent]:
        if self.tool is None or self.held:
            return []
        return [ToolCallStarted(self.call_id, self.tool.name)]

    def feed(self, data: bytes) -> list[ParserEvent]:
        """Take bytes; return the text that is complete."""
        return self._piece(self.decoder.decode(data))

    def end(
        self, closer: str | None, *, complete: bool
    ) -> tuple[Message, list[ParserEvent], list[RepairNote]]:
        """Close the message: what history keeps, last events, repairs made."""
        events = self._piece(self.decoder.decode(b"", final=True))
        text = "".join(self.pieces)
        message = self._with(text)
        if self.tool is None:
            return message, events, []
        if not complete:
            return message, events + self._failed(text, CUT_OFF, cut_off=True), []
        return self._end_call(message, text, events, closer)

    def _end_call(
        self,
        message: Message,
        text: str,
        events: list[ParserEvent],
        closer: str | None,
    ) -> tuple[Message, list[ParserEvent], list[RepairNote]]:
        assert self.tool is not None
        arguments, mends, problem = self._read(text)
        if self.held and problem and closer != "<|call|>":
            thought = Message(message.role, text, message.channel)
            mend = ("not-a-call", f"text to `{message.recipient}` was kept as analysis")
            return thought, [*events, text_event(thought)], [mend]
        if problem:
            return message, events + self._failed(text, problem), mends
        if self.held:
            mends.append(("call-on-analysis", "a call on analysis was accepted"))
            events += [
                ToolCallStarted(self.call_id, self.tool.name),
                ToolCallDelta(self.call_id, text),
            ]
        call = ToolCall(self.call_id, self.tool.name, arguments)
        return self._with(arguments), [*events, call], mends

    def _read(self, text: str) -> tuple[str, list[RepairNote], str]:
        """The arguments of a call, the repairs made, and why it cannot be run."""
        assert self.tool is not None
        mends: list[RepairNote] = []
        if self.tool.recipient != self.message.recipient:
            detail = f"`{self.message.recipient}` is `{self.tool.recipient}`"
            mends.append(("tool-name", detail))
        if not self.tool.offered:
            return text, mends, self.missing
        if self.held and not self.accepted_on_analysis:
            return text, mends, NOT_ON_ANALYSIS
        if not self.tool.takes_json:
            return text, mends, ""
        arguments = parse_arguments(text)
        if arguments.repair:
            mends.append(("arguments", arguments.repair))
        problem = arguments.problem or ""
        if self.held and not problem:
            problem = self._not_as_described(arguments.text)
        return arguments.text, mends, problem

    def _not_as_described(self, arguments: str) -> str:
        """What the tool's schema has against `arguments`, if it was given."""
        assert self.tool is not None
        schema = self.tool.parameters
        if schema is None:
            return ""
        try:
            return "; ".join(validate.errors(json.loads(arguments), schema, schema))
        except RecursionError:
            return "the arguments are nested too deeply"

    def _failed(
        self, text: str, problem: str, *, cut_off: bool = False
    ) -> list[ParserEvent]:
        assert self.tool is not None
        name = self.tool.name
        started = [ToolCallStarted(self.call_id, name)] if self.held else []
        return [*started, ToolCallFailed(self.call_id, name, text, problem, cut_off)]

    def _piece(self, text: str) -> list[ParserEvent]:
        if not text:
            return []
        self.pieces.append(text)
        if self.held:
            return []
        if self.tool is not None:
            return [ToolCallDelta(self.call_id, text)]
        return [text_event(self.message, text)]

    def _with(self, text: str) -> Message:
        old = self.message
        recipient = old.recipient
        if self.tool is not None and self.tool.offered:
            recipient = self.tool.recipient
        return Message(
            old.role, text, old.channel, recipient, old.content_type, old.name
        )


def open_message(
    header: Header,
    offered: OfferedTools,
    *,
    calls_on_analysis: bool,
    next_id: Callable[[], str],
) -> OpenMessage:
    """Open the message that `header` announces."""
    role = header.role or "assistant"
    message = Message(
        role,
        "",
        header.channel,
        header.recipient,
        header.content_type,
        header.name or ("tool" if role == "tool" else None),
    )
    if role != "assistant" or header.recipient is None:
        return OpenMessage(message)
    target = offered.resolve(header.recipient)
    return OpenMessage(
        message,
        target,
        call_id=next_id(),
        held=header.channel == "analysis" and not target.built_in,
        accepted_on_analysis=calls_on_analysis,
        missing=offered.missing_message(target),
    )
