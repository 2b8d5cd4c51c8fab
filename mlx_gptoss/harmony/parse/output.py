"""The output of a parser: the kind of each token, repairs, and pending events."""

from collections.abc import Iterable, Sequence
from typing import Literal

from mlx_gptoss.harmony.events import ParserEvent, Repair, Repaired
from mlx_gptoss.harmony.parse.header import HeaderPart

TokenKind = Literal["text", "header", "control", "repaired"]


class ParserOutput:
    """Collects what a parser produces: exactly one kind for each id."""

    def __init__(self) -> None:
        self.token_kinds: list[TokenKind] = []
        self.repairs: list[Repair] = []
        self._events: list[ParserEvent] = []

    @property
    def index(self) -> int:
        """The index of the current id."""
        return max(len(self.token_kinds) - 1, 0)

    def add_token(self) -> None:
        """Count one more id: a control token until `set_kind` says otherwise."""
        self.token_kinds.append("control")

    def set_kind(self, kind: TokenKind) -> None:
        self.token_kinds[-1] = kind

    def emit(self, events: Iterable[ParserEvent]) -> None:
        self._events += events

    def take_events(self) -> list[ParserEvent]:
        events, self._events = self._events, []
        return events

    def add_repair(self, kind: str, detail: str) -> None:
        """Note a repair at the current id."""
        repair = Repair(kind, detail, self.index)
        self.repairs.append(repair)
        self._events.append(Repaired(repair))

    def drop_token(self, kind: str, detail: str) -> None:
        """Drop the current id, with a repair."""
        self.set_kind("repaired")
        self.add_repair(kind, detail)

    def drop_parts(self, parts: Sequence[HeaderPart], kind: str, detail: str) -> None:
        """Drop the ids of some header parts, with a repair."""
        for part in parts:
            for index, _ in part.tokens:
                self.token_kinds[index] = "repaired"
        self.add_repair(kind, detail)

    def mark_text(self, part: HeaderPart, body: str) -> None:
        """Reclassify `body`, the end of a header part, as text."""
        for index in part.tail(body):
            self.token_kinds[index] = "text"
