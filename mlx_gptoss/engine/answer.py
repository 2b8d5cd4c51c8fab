"""Parse the tokens of one answer into events, up to its end or a stop string.

Stop strings count in the answer (channel `final`) only: a model may mention one while
it reasons. Knows nothing of models or conversations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlx_gptoss.engine.outputs import STOP, Statistics
from mlx_gptoss.harmony.events import Answer, MessageEnded, ParserEvent
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.stop_strings import StopStrings

STOP_STRING = "stop_string"


class StopStringParser:
    """A Harmony parser that ends at a stop string; `stopped` if one was found."""

    def __init__(self, parser: Parser, stop: Sequence[str] = ()) -> None:
        self._parser = parser
        self._stop = stop
        self._matcher = StopStrings(stop)
        self._emitted: list[str] = []
        self.stopped = False

    @property
    def matched_stop_string(self) -> str | None:
        """The stop string that ended the answer, or None."""
        return self._matcher.found

    def feed(self, token: int) -> list[ParserEvent]:
        """Parse a token id; return the events it completes."""
        return [] if self.stopped else list(self._until_stop(self._parser.feed(token)))

    def finish(self) -> list[ParserEvent]:
        """End the answer; return the last events. Calling it again does nothing."""
        return [] if self.stopped else list(self._until_stop(self._parser.finish()))

    def with_stop_string(self, stats: Statistics) -> Statistics:
        """Return the statistics, noting the stop string if one was found."""
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
        """Yield the end of the message, cut to the text that was emitted."""
        for event in self._parser.finish():
            if isinstance(event, MessageEnded):
                text = "".join(self._emitted)
                yield MessageEnded(replace(event.message, content=text))
