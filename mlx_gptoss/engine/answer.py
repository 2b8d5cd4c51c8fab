"""Parse the tokens of one answer into events, up to its end or a stop string.

    parser = AnswerParser(Parser(tokenizer), stop=["###"])
    for events in parser.read(runtime.generate(ids)):  # those of one token
        events                                         # Reasoning | Answer | ...

Stop strings count in the answer (channel `final`) only: a model may mention one while
it reasons. Knows nothing of models or conversations.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from mlx_gptoss.engine.outputs import STOP, Statistics, Step
from mlx_gptoss.harmony.events import Answer, MessageEnded, ParserEvent
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.parse.output import TokenKind

STOP_STRING = "stop_string"  # finish detail


class TokenParser(Protocol):
    """Parses token ids into events: `Parser` for Harmony, `TextParser` for raw text."""

    messages: list[Message]

    @property
    def token_kinds(self) -> Sequence[TokenKind]: ...
    @property
    def open_channel(self) -> str | None: ...
    def feed(self, token_id: int) -> list[ParserEvent]: ...
    def finish(self) -> list[ParserEvent]: ...


class StopStrings:
    """Finds the earliest of several strings, however the text is cut into pieces.

    stops = StopStrings(("###", "\\n\\n"))
    shown = stops.feed("a #")      # "a ": the rest may be the start of a stop string
    shown = stops.feed("##b")      # ""; stops.found is "###"
    shown = stops.flush()          # text held back at the end of the stream
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Take a piece; return the text to show, which is empty after a stop string."""
        if self.found is not None:
            return ""
        text = self._held + text
        places = [(text.find(stop), stop) for stop in self._stops]
        hits = [(place, -len(stop), stop) for place, stop in places if place >= 0]
        if hits:
            place, _, self.found = min(hits)
            self._held = ""
            return text[:place]
        self._held = self._possible_beginning(text)
        return text[: len(text) - len(self._held)]

    def flush(self) -> str:
        """Return the text held back, which no longer can become a stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_beginning(self, text: str) -> str:
        """Return the longest end of `text` that starts a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return end
        return ""


class AnswerParser:
    """Parses the tokens of one answer, and ends it at a stop string.

    `stopped` says that one was found: later tokens are not part of the answer.
    """

    def __init__(self, parser: TokenParser, stop: Sequence[str] = ()) -> None:
        self._parser = parser
        self._stop = stop
        self._matcher = StopStrings(stop)
        self._shown: list[str] = []  # of the open message
        self.stopped = False

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, or None."""
        return self._matcher.found

    def read(self, steps: Iterable[Step]) -> Iterator[list[ParserEvent]]:
        """Yield the events of each token, up to the end or a stop string."""
        for step in steps:
            yield self.feed(step.token)
            if self.stopped:
                return
        yield self.finish()

    def feed(self, token: int) -> list[ParserEvent]:
        """Parse a token id; return the events it completes."""
        return [] if self.stopped else list(self._until_stop(self._parser.feed(token)))

    def finish(self) -> list[ParserEvent]:
        """End the answer; return the last events. Calling it again does nothing."""
        if self.stopped:
            return []
        last = list(self._until_stop(self._parser.finish()))
        return [*last, *self._show(self._matcher.flush())]

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
                yield from self._show(self._matcher.feed(event.text))
                if self._matcher.found is not None:
                    self.stopped = True
                    yield from self._close_message()
                    return
            else:
                if isinstance(event, MessageEnded):
                    yield from self._show(self._matcher.flush())
                    self._matcher, self._shown = StopStrings(self._stop), []
                yield event

    def _show(self, text: str) -> Iterator[ParserEvent]:
        if text:
            self._shown.append(text)
            yield Answer(text)

    def _close_message(self) -> Iterator[ParserEvent]:
        """Yield the end of the message, cut to the text that was shown."""
        for event in self._parser.finish():
            if isinstance(event, MessageEnded):
                text = "".join(self._shown)
                yield MessageEnded(replace(event.message, content=text))
