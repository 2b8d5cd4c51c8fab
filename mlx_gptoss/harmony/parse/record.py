"""What became of each id of a stream, the repairs made, and events not yet taken."""

from collections.abc import Iterable, Sequence
from typing import Literal

from mlx_gptoss.harmony.events import ParserEvent, Repair, Repaired
from mlx_gptoss.harmony.parse.header import Part

Fate = Literal["text", "header", "control", "repaired"]


class Record:
    """The account of a parser: exactly one fate for each id it was fed."""

    def __init__(self) -> None:
        self.fates: list[Fate] = []
        self.repairs: list[Repair] = []
        self._events: list[ParserEvent] = []

    @property
    def at(self) -> int:
        """The place of the id being read."""
        return max(len(self.fates) - 1, 0)

    def next_id(self) -> None:
        """Begin the account of one more id: a mark, unless it is said otherwise."""
        self.fates.append("control")

    def this_id_is(self, fate: Fate) -> None:
        self.fates[-1] = fate

    def tell(self, events: Iterable[ParserEvent]) -> None:
        self._events += events

    def take_events(self) -> list[ParserEvent]:
        events, self._events = self._events, []
        return events

    def mend(self, kind: str, detail: str) -> None:
        """Note a repair where the stream now stands."""
        repair = Repair(kind, detail, self.at)
        self.repairs.append(repair)
        self._events.append(Repaired(repair))

    def refuse(self, kind: str, detail: str) -> None:
        """Drop the id being read."""
        self.this_id_is("repaired")
        self.mend(kind, detail)

    def drop(self, parts: Sequence[Part], kind: str, detail: str) -> None:
        """Drop the ids that parts of a header were read from."""
        for part in parts:
            for place, _ in part.tokens:
                self.fates[place] = "repaired"
        self.mend(kind, detail)

    def was_text(self, part: Part, body: str) -> None:
        """Say that `body`, the end of a part of a header, was text after all."""
        for place in part.tail(body):
            self.fates[place] = "text"
