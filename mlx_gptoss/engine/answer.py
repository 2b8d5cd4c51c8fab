"""Tokens of one answer in, events out, until it ends or says a stop string.

Stop strings are looked for in the answer (channel `final`) alone: a model may well
mention one while it reasons. Knows nothing of models and of histories.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlx_gptoss.engine.outputs import STOP, Statistics
from mlx_gptoss.harmony.events import Answer, MessageEnded, ParserEvent
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.parse.stop_strings import StopStrings

STOP_STRING = "stop_string"


class StopStringParser:
    """Reads one answer; once `stopped`, the rest of it is not wanted."""

    def __init__(self, parser: Parser, stop: Sequence[str] = ()) -> None:
        self._parser = parser
        self._stop = stop
        self._matcher = StopStrings(stop)
        self._emitted: list[str] = []
        self.stopped = False

    @property
    def matched_stop_string(self) -> str | None:
        """The stop string that was said, if one was."""
        return self._matcher.found

    def feed(self, token: int) -> list[ParserEvent]:
        """Take a token; return what happened."""
        return [] if self.stopped else list(self._until_stop(self._parser.feed(token)))

    def finish(self) -> list[ParserEvent]:
        """End the answer; twice is once."""
        return [] if self.stopped else list(self._until_stop(self._parser.finish()))

    def with_stop_string(self, stats: Statistics) -> Statistics:
        """Say in the statistics that a stop string ended the answer, if one did."""
        if not self.stopped:
            return stats
        details = (*stats.finish_details, STOP_STRING)
        return replace(stats, finish_reason=STOP, finish_details=details)

    def _until_stop(self, events: Sequence[ParserEvent]) -> Iterator[ParserEvent]:
        if not self._stop:
            yield from events
            return
        for event in events:
            if isinstance(event, Answer):
                yield from self._emit(self._matcher.feed(event.text))
                if self._matcher.found is not None:
                    self.stopped = True
                    yield from self._close_message()
                    return
            else:
                if isinstance(event, MessageEnded):
                    yield from self._emit(self._matcher.flush())
                    self._matcher, self._emitted = StopStrings(self._stop), []
                yield event

    def _emit(self, text: str) -> Iterator[ParserEvent]:
        if text:
            self._emitted.append(text)
            yield Answer(text)

    def _close_message(self) -> Iterator[ParserEvent]:
        """The message as far as it was shown."""
        for event in self._parser.finish():
            if isinstance(event, MessageEnded):
                text = "".join(self._emitted)
                yield MessageEnded(replace(event.message, content=text))
