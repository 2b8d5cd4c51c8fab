"""A message whose header has been parsed and whose text is arriving.

Channel and role decide which event a piece of text becomes; a message that addresses
a tool is parsed by `tool_call.py`. Bytes in, events out: knows nothing of tokens.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mlx_gptoss.harmony.events import (
    Answer,
    OtherText,
    ParserEvent,
    Preamble,
    Reasoning,
)
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.parse.header import Header
from mlx_gptoss.harmony.parse.tool_call import EndedMessage, OpenCall
from mlx_gptoss.harmony.parse.tool_names import OfferedRecipients


def text_event(message: Message, text: str | None = None) -> ParserEvent:
    """Return the event for `text` (or all the text) of a message that is not a call."""
    piece = message.text if text is None else text
    if message.role != "assistant":
        return OtherText(message.role, piece)
    kinds = {"analysis": Reasoning, "commentary": Preamble}
    return kinds.get(message.channel or "", Answer)(piece)


@dataclass
class OpenMessage:
    """Collects the text of one message; `call` is set if it addresses a tool."""

    message: Message
    call: OpenCall | None = None
    pieces: list[str] = field(default_factory=list)
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def start_events(self) -> list[ParserEvent]:
        return [] if self.call is None else self.call.start_events()

    def feed(self, data: bytes) -> list[ParserEvent]:
        """Take bytes; return events for the characters they complete."""
        return self._text_events(self.decoder.decode(data))

    def end(self, closer: str | None, *, complete: bool) -> EndedMessage:
        """Close the message; `closer` is the special token that ended it."""
        events = self._text_events(self.decoder.decode(b"", final=True))
        message = replace(self.message, content="".join(self.pieces))
        if self.call is None:
            return EndedMessage(message, events, [])
        ended = self.call.end(message, closer, complete=complete)
        return replace(ended, events=[*events, *ended.events])

    def _text_events(self, text: str) -> list[ParserEvent]:
        if not text:
            return []
        self.pieces.append(text)
        if self.call is not None:
            return self.call.text_events(text)
        return [text_event(self.message, text)]


def open_message(
    header: Header,
    offered: OfferedRecipients,
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
    tool = offered.resolve(header.recipient)
    call = OpenCall(
        next_id(),
        tool,
        held=header.channel == "analysis" and not tool.built_in,
        accepted_on_analysis=calls_on_analysis,
        missing=offered.missing_message(tool),
    )
    return OpenMessage(message, call)
