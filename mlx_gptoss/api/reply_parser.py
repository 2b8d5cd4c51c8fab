"""Parse the tokens of one answer, and count what replies report.

Knows nothing of models and threads; `generation.py` feeds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_gptoss.engine.answer import AnswerParser, TokenParser
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.prompt_progress import PromptProgress
from mlx_gptoss.harmony.events import ParserEvent, ToolCall, ToolCallFailed
from mlx_gptoss.harmony.messages import Message

VISIBLE_CHANNELS = ("final", "commentary")


@dataclass(frozen=True)
class ParsedToken:
    """One token and the events it completed; the last one of an answer has no `step`.

    `visible` marks a token of the text of an answer or a preamble. Before the first
    token, `progress` tells how the prompt is read, if the request asked for that.
    """

    events: Sequence[ParserEvent]
    step: Step | None = None
    visible: bool = False
    progress: PromptProgress | None = None


class ReplyParser:
    """Parses one answer, in Harmony or raw text as `parser` does.

    Attributes:
        stopped: a stop string was found; later tokens are to be ignored.
        has_called: a call is complete.
        call_ids: the ids of the complete calls.
        reasoning_tokens: tokens of the text of reasoning.
    """

    def __init__(self, parser: TokenParser, stop: Sequence[str] = ()) -> None:
        self._parser = parser
        self._answer = AnswerParser(parser, stop)
        self._cut_call = False  # the last message is an unfinished call
        self.has_called = False
        self.call_ids: list[str] = []
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        return self._answer.stopped

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._answer.stop_string

    @property
    def messages(self) -> Sequence[Message]:
        """The messages so far, without an unfinished call: no client gets it."""
        messages = self._parser.messages
        return messages[:-1] if self._cut_call else messages

    def feed(self, step: Step) -> ParsedToken:
        channel = self._parser.open_channel
        events = self._record(self._answer.feed(step.token))
        is_text = self._parser.token_kinds[-1:] == ["text"]
        self.reasoning_tokens += is_text and channel == "analysis"
        return ParsedToken(
            events, step, visible=is_text and channel in VISIBLE_CHANNELS
        )

    def finish(self) -> ParsedToken:
        return ParsedToken(self._record(self._answer.finish()))

    def with_stop_string(self, stats: Statistics) -> Statistics:
        """Return the statistics, noting the stop string if one was found."""
        return self._answer.with_stop_string(stats)

    def _record(self, events: Sequence[ParserEvent]) -> Sequence[ParserEvent]:
        for event in events:
            if isinstance(event, ToolCallFailed) and event.cut_off:
                self._cut_call = True
            elif isinstance(event, ToolCall | ToolCallFailed):
                self.has_called = True
                self.call_ids.append(event.id)
        return events
