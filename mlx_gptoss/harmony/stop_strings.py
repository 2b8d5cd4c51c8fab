"""Stop strings: cut a stream of text before the first of them.

    stops = StopStrings(("###", "\\n\\n"))
    shown = stops.feed("a #")      # "a ": the rest may be the start of a stop string
    shown = stops.feed("##b")      # ""; stops.found is "###"
    shown = stops.flush()          # text held back at the end of the stream

Works on text only.
"""

from collections.abc import Sequence


class StopStrings:
    """Finds the earliest of several strings, however the text is cut into pieces."""

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
