"""Parse the tokens of one answer: a Harmony turn, or plain text.

Knows nothing of models and threads; `generation.py` feeds it.
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
from mlx_gptoss.harmony.stop_strings import StopStrings

VISIBLE_CHANNELS = ("final", "commentary")
CALL_ID_BYTES = 12


@dataclass(frozen=True)
class ParsedToken:
    """One token and the events it completed; the last one of an answer has no `step`.

    `visible` marks a token of the text of an answer or a preamble.
    """

    events: Sequence[ParserEvent]
    step: Step | None = None
    visible: bool = False


class AnswerParser(Protocol):
    """Parses the tokens of one answer."""

    stopped: bool  # a stop string was found: ignore the rest
    has_called: bool  # a call is complete
    reasoning_tokens: int
    call_ids: list[str]

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        ...

    @property
    def messages(self) -> Sequence[Message]:
        """The messages of the answer so far, as the history keeps them."""
        ...

    def feed(self, step: Step) -> ParsedToken: ...
    def finish(self) -> ParsedToken: ...


def new_call_id() -> str:
    """Return a unique id for a tool call."""
    return f"call_{secrets.token_hex(CALL_ID_BYTES)}"


class HarmonyAnswerParser:
    """Parses a Harmony turn; `prefix` are the ids of it that the prompt ends with."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tools: Sequence[ToolDescription] = (),
        stop: Sequence[str] = (),
        prefix: Sequence[int] = (),
    ) -> None:
        self._parser = Parser(tokenizer, tools=tools, next_id=new_call_id)
        for token in prefix:
            self._parser.feed(token)
        self._listener = StopStringParser(self._parser, stop)
        self.stopped = False
        self.has_called = False
        self._cut_call = False  # the last message is an unfinished call
        self.reasoning_tokens = 0
        self.call_ids: list[str] = []

    @property
    def stop_string(self) -> str | None:
        return self._listener.matched_stop_string

    @property
    def messages(self) -> Sequence[Message]:
        """The messages so far, without an unfinished call: no client gets it."""
        messages = self._parser.messages
        return messages[:-1] if self._cut_call else messages

    def feed(self, step: Step) -> ParsedToken:
        channel = self._parser.open_channel
        events = self._record(self._listener.feed(step.token))
        is_text = self._parser.token_kinds[-1:] == ["text"]
        self.reasoning_tokens += is_text and channel == "analysis"
        return ParsedToken(
            events, step, visible=is_text and channel in VISIBLE_CHANNELS
        )

    def finish(self) -> ParsedToken:
        return ParsedToken(self._record(self._listener.finish()))

    def _record(self, events: Sequence[ParserEvent]) -> Sequence[ParserEvent]:
        self.stopped = self._listener.stopped
        for event in events:
            if isinstance(event, ToolCallFailed) and event.cut_off:
                self._cut_call = True
            elif isinstance(event, ToolCall | ToolCallFailed):
                self.has_called = True
                self.call_ids.append(event.id)
        return events


class TextAnswerParser:
    """Decodes plain text, with control tokens written as their names."""

    has_called = False
    reasoning_tokens = 0
    messages: Sequence[Message] = ()

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer = tokenizer.detokenizer()
        self._stop_strings = StopStrings(stop)
        self.stopped = False
        self.call_ids: list[str] = []

    @property
    def stop_string(self) -> str | None:
        return self._stop_strings.found

    def feed(self, step: Step) -> ParsedToken:
        # The token that ends an answer is not part of its text.
        ended = step.finish_reason not in (None, "length")
        text = ""
        if not ended:
            text = self._stop_strings.feed(self._detokenizer.feed(step.token))
        self.stopped = self._stop_strings.found is not None
        return ParsedToken([Answer(text)] if text else [], step, visible=not ended)

    def finish(self) -> ParsedToken:
        if self.stopped:
            return ParsedToken([])
        strings = self._stop_strings
        text = strings.feed(self._detokenizer.flush()) + strings.flush()
        return ParsedToken([Answer(text)] if text else [])
