"""Rules of a grammar while they are written: each with its alternatives and needs.

    rules = Rules()
    rules.add("v1", "OPEN v2 CLOSE", needs=["v2"])
    rules.text("v1")        # None if no text leads out of `v1`

An alternative that needs a rule no text leads out of is not written: a mask would let
a model in and never out again. Knows nothing of JSON.
"""

from collections.abc import Iterable
from dataclasses import dataclass

MOST_TEXT = 1 << 20  # characters of a grammar


@dataclass(frozen=True)
class Alternative:
    """One alternative of a rule, and the rules that must have a text for it."""

    text: str
    needs: tuple[str, ...] = ()


class GrammarBuilder:
    """Collects rules and terminals. Raises OverflowError when it becomes too large."""

    def __init__(self, head: str = "") -> None:
        self._head = head
        self._ways: dict[str, list[Alternative]] = {}
        self._parametric: set[str] = set()
        self._terminals: dict[str, str] = {}  # names by text
        self._size = 0
        self._count = 0

    def new_name(self) -> str:
        """A name for a rule that nobody has."""
        self._count += 1
        return f"v{self._count}"

    def add(self, name: str, text: str, needs: Iterable[str] = ()) -> None:
        """Add an alternative to a rule; one that ends with `::_` has a parameter."""
        bare = name.removesuffix("::_")
        if bare != name:
            self._parametric.add(bare)
        self._ways.setdefault(bare, []).append(Alternative(text, tuple(needs)))
        self._grow(text)

    def terminal(self, text: str) -> str:
        """The name of a terminal, the same for the same text."""
        if text not in self._terminals:
            self._terminals[text] = f"T{len(self._terminals)}"
            self._grow(text)
        return self._terminals[text]

    def to_lark(self, start: str) -> str | None:
        """Write the grammar; None if no text leads out of `start`."""
        ends = self._productive()
        if start not in ends:
            return None
        lines = [self._head, f"start: {start}"]
        for name, ways in self._ways.items():
            kept = [way.text for way in ways if ends.issuperset(way.needs)]
            if kept:
                suffix = "::_" if name in self._parametric else ""
                lines.append(f"{name}{suffix}: " + "\n  | ".join(kept))
        lines += [f"{name}: {text}" for text, name in self._terminals.items()]
        return "\n".join(lines)

    def _productive(self) -> set[str]:
        """The rules out of which a text leads."""
        found: set[str] = set()
        waiting: dict[str, list[tuple[str, Alternative]]] = {}
        left = [(name, way) for name, ways in self._ways.items() for way in ways]
        while left:
            name, way = left.pop()
            if name in found:
                continue
            missing = next((need for need in way.needs if need not in found), None)
            if missing is not None:
                waiting.setdefault(missing, []).append((name, way))
                continue
            found.add(name)
            left += waiting.pop(name, [])
        return found

    def _grow(self, text: str) -> None:
        self._size += len(text)
        if self._size > MOST_TEXT:
            raise OverflowError("the grammar is too large")


def repeated(item: str, least: int, most: int | None) -> str:
    """`least` to `most` items, one at least, with commas between them."""
    if most == 1:
        return item
    end = "" if most is None else most - 1
    return f"{item} ( COMMA {item} ){{{least - 1},{end}}}"
