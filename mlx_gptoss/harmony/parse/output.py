"""What became of each id of a stream, the repairs made, and events not yet taken."""

from collections.abc import Iterable, Sequence
from typing import Literal

from mlx_gptoss.harmony.events import ParserEvent, Repair, Repaired
from mlx_gptoss.harmony.parse.header import HeaderPart

TokenKind = Literal["text", "header", "control", "repaired"]


class ParserOutput:
    """The account of a parser: exactly one fate for each id it was fed."""

    def __init__(self) -> None:
        self.token_kinds: list[TokenKind] = []
        self.repairs: list[Repair] = []
        self._events: list[ParserEvent] = []

    @property
    def index(self) -> int:
        """The place of the id being read."""
        return max(len(self.token_kinds) - 1, 0)

    def add_token(self) -> None:
        """Begin the account of one more id: a mark, unless it is said otherwise."""
        self.token_kinds.append("control")

    def set_kind(self, fate: TokenKind) -> None:
        self.token_kinds[-1] = fate

    def emit(self, events: Iterable[ParserEvent]) -> None:
        self._events += events

    def take_events(self) -> list[ParserEvent]:
        events, self._events = self._events, []
        return events

    def add_repair(self, kind: str, detail: str) -> None:
        """Note a repair where the stream now stands."""
        repair = Repair(kind, detail, self.index)
        self.repairs.append(repair)
        self._events.append(Repaired(repair))

    def drop_token(self, kind: str, detail: str) -> None:
        """Drop the id being read."""
        self.set_kind("repaired")
        self.add_repair(kind, detail)

    def drop_parts(self, parts: Sequence[HeaderPart], kind: str, detail: str) -> None:
        """Drop the ids that parts of a header were read from."""
        for part in parts:
            for place, _ in part.tokens:
                self.token_kinds[place] = "repaired"
        self.add_repair(kind, detail)

    def mark_text(self, part: HeaderPart, body: str) -> None:
        """Say that `body`, the end of a part of a header, was text after all."""
        for place in part.tail(body):
            self.token_kinds[place] = "text"
