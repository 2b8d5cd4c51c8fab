"""Tokens of one answer in, what they say out: of a Harmony turn, or of plain text.

Knows nothing of models and of threads; see `turn.py` for where the tokens come from.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.answer import StopStringParser
from mlx_gptoss.engine.outputs import Step
from mlx_gptoss.harmony.events import Answer, ParserEvent, ToolCall, ToolCallFailed
from mlx_gptoss.harmony.messages import Message, ToolDescription
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.parse.stop_strings import StopStrings

VISIBLE = ("final", "commentary")
CALL_ID_BYTES = 12


@dataclass(frozen=True)
class ParsedToken:
    """One token and what it completed; the last one of a turn has no token.

    `visible` tells that the token is text of the answer or of a preamble.
    """

    events: Sequence[ParserEvent]
    step: Step | None = None
    visible: bool = False


class AnswerParser(Protocol):
    """Makes sense of the tokens of one answer."""

    stopped: bool  # a stop string was found: the rest is not wanted
    called: bool  # a tool, by a call that has come to its end
    reasoned: int  # tokens of reasoning
    call_ids: list[str]

    @property
    def stop_found(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        ...

    @property
    def messages(self) -> Sequence[Message]:
        """What was said so far, as history keeps it."""
        ...

    def feed(self, step: Step) -> ParsedToken: ...
    def finish(self) -> ParsedToken: ...


def new_call_id() -> str:
    """Return an id for a call that no other request will have."""
    return f"call_{secrets.token_hex(CALL_ID_BYTES)}"


class HarmonyAnswerParser:
    """Reads a turn of a conversation, behind the ids of it that the prompt holds."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tools: Sequence[ToolDescription] = (),
        stop: Sequence[str] = (),
        begun: Sequence[int] = (),
    ) -> None:
        self._parser = Parser(tokenizer, tools=tools, next_id=new_call_id)
        for token in begun:
            self._parser.feed(token)
        self._listener = StopStringParser(self._parser, stop)
        self.stopped = False
        self.called = False
        self._cut_call = False  # the last message is a call without an end
        self.reasoned = 0
        self.call_ids: list[str] = []

    @property
    def stop_found(self) -> str | None:
        return self._listener.matched_stop_string

    @property
    def messages(self) -> Sequence[Message]:
        """Without the call that was cut: no client hears of it."""
        said = self._parser.messages
        return said[:-1] if self._cut_call else said

    def feed(self, step: Step) -> ParsedToken:
        before = self._parser.open_channel
        events = self._noted(self._listener.feed(step.token))
        is_text = self._parser.token_kinds[-1:] == ["text"]
        self.reasoned += is_text and before == "analysis"
        return ParsedToken(events, step, visible=is_text and before in VISIBLE)

    def finish(self) -> ParsedToken:
        return ParsedToken(self._noted(self._listener.finish()))

    def _noted(self, events: Sequence[ParserEvent]) -> Sequence[ParserEvent]:
        self.stopped = self._listener.stopped
        for event in events:
            if isinstance(event, ToolCallFailed) and event.cut_off:
                self._cut_call = True
            elif isinstance(event, ToolCall | ToolCallFailed):
                self.called = True
                self.call_ids.append(event.id)
        return events


class TextAnswerParser:
    """Reads text as it stands, control tokens by their names."""

    called = False
    reasoned = 0
    messages: Sequence[Message] = ()

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._text = tokenizer.detokenizer()
        self._strings = StopStrings(stop)
        self.stopped = False
        self.call_ids: list[str] = []

    @property
    def stop_found(self) -> str | None:
        return self._strings.found

    def feed(self, step: Step) -> ParsedToken:
        # The token that ends an answer is none of its text.
        ended = step.finish_reason not in (None, "length")
        text = "" if ended else self._strings.feed(self._text.feed(step.token))
        self.stopped = self._strings.found is not None
        return ParsedToken([Answer(text)] if text else [], step, visible=not ended)

    def finish(self) -> ParsedToken:
        if self.stopped:
            return ParsedToken([])
        text = self._strings.feed(self._text.flush()) + self._strings.flush()
        return ParsedToken([Answer(text)] if text else [])
