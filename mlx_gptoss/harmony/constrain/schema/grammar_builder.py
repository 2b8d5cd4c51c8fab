"""Collect the rules of a grammar and write them in Lark.

    rules = GrammarBuilder()
    rules.add("v1", "OPEN v2 CLOSE", needs=["v2"])
    rules.to_lark("v1")     # None if `v1` is unproductive

Alternatives that need an unproductive rule (one that derives no finite text) are
dropped: a mask would lead a model in and never out again. Knows nothing of JSON.
"""

from collections.abc import Iterable
from dataclasses import dataclass

MAX_TEXT = 1 << 20  # characters of a grammar


@dataclass(frozen=True)
class RuleAlternative:
    """One alternative of a rule, and the rules that must be productive for it."""

    text: str
    needs: tuple[str, ...] = ()


class GrammarBuilder:
    """Collects rules and terminals. Raises OverflowError if they become too large."""

    def __init__(self, head: str = "") -> None:
        self._head = head
        self._alternatives: dict[str, list[RuleAlternative]] = {}
        self._parametric: set[str] = set()
        self._terminals: dict[str, str] = {}  # names by text
        self._size = 0
        self._count = 0

    def new_name(self) -> str:
        """Return an unused name for a rule."""
        self._count += 1
        return f"v{self._count}"

    def add(self, name: str, text: str, needs: Iterable[str] = ()) -> None:
        """Add an alternative to a rule; a name that ends with `::_` has a parameter."""
        bare = name.removesuffix("::_")
        if bare != name:
            self._parametric.add(bare)
        self._alternatives.setdefault(bare, []).append(
            RuleAlternative(text, tuple(needs))
        )
        self._grow(text)

    def terminal(self, text: str) -> str:
        """Return the name of a terminal, the same for the same text."""
        if text not in self._terminals:
            self._terminals[text] = f"T{len(self._terminals)}"
            self._grow(text)
        return self._terminals[text]

    def to_lark(self, start: str) -> str | None:
        """Return the grammar in Lark; None if `start` is unproductive."""
        ends = self._productive()
        if start not in ends:
            return None
        lines = [self._head, f"start: {start}"]
        for name, ways in self._alternatives.items():
            kept = [way.text for way in ways if ends.issuperset(way.needs)]
            if kept:
                suffix = "::_" if name in self._parametric else ""
                lines.append(f"{name}{suffix}: " + "\n  | ".join(kept))
        lines += [f"{name}: {text}" for text, name in self._terminals.items()]
        return "\n".join(lines)

    def _productive(self) -> set[str]:
        """Return the rules that derive a finite text."""
        found: set[str] = set()
        waiting: dict[str, list[tuple[str, RuleAlternative]]] = {}
        left = [
            (name, way) for name, ways in self._alternatives.items() for way in ways
        ]
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
        if self._size > MAX_TEXT:
            raise OverflowError("the grammar is too large")


def repeated(item: str, least: int, most: int | None) -> str:
    """Write `least` to `most` items, at least one, with commas between them."""
    if most == 1:
        return item
    end = "" if most is None else most - 1
    return f"{item} ( COMMA {item} ){{{least - 1},{end}}}"
