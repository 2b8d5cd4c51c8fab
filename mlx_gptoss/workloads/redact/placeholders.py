"""Names for what was masked: `[PERSON_1]`, the same for the same person.

Numbers count the persons, addresses, ... of one document, in the order of appearance. A
person may be named by a part of the name: `Alice`, or `Ms Smith`, are `Alice Smith` if
nobody else in the document has that part.
"""

import regex

PERSON = "private_person"
TITLES = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "miss",
        "mx",
        "dr",
        "prof",
        "sir",
        "dame",
        "herr",
        "frau",
        "mme",
        "mlle",
        "monsieur",
        "madame",
    ]
)
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['\u2019][\p{L}\p{M}\p{N}]+)*")
POSSESSIVE = regex.compile(r"['\u2019]s$")
LOOKALIKE = regex.compile(r"\[[A-Z][A-Z0-9_]*_\d+(?:\.\d+)?\]")  # also in a text itself


def placeholder_name(category: str) -> str:
    """Return the name in a placeholder: `private_person` -> `PERSON`."""
    upper = regex.sub(r"[^A-Z0-9]+", "_", category.upper()).strip("_")
    name = upper.removeprefix("PRIVATE_") or "PRIVATE"
    return name if name[0].isalpha() else f"X_{name}"


def compare_key(category: str, text: str) -> frozenset[str]:
    """Return the words of a value; two with equal words are the same.

    Case, spaces and punctuation do not count, nor a person's title.
    """
    words = [POSSESSIVE.sub("", word) for word in WORD.findall(text.casefold())]
    if category == PERSON:
        words = [word for word in words if word not in TITLES] or words
        return frozenset(words or [text])
    return frozenset(["".join(words) or text])


class Numbering:
    """Numbers what is masked in one document."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, set[str]]] = {}
        self._last: dict[str, int] = {}
        self._exact: dict[tuple[str, frozenset[str]], int] = {}
        self._taken: set[str] = set()

    def avoid(self, text: str) -> None:
        """Never give a name that stands in `text` already."""
        self._taken.update(LOOKALIKE.findall(text))

    def number(self, category: str, text: str) -> int:
        """Return the number of a value: a known one's, or the next."""
        name, key = placeholder_name(category), compare_key(category, text)
        found = self._exact.get((name, key))
        if found is None and category == PERSON:
            found = self._related(name, key)
        if found is None:
            found = self._next(name)
        self._learn(name, key, found)
        return found

    def learn(self, category: str, text: str, number: int) -> None:
        """Take over a number that was given before."""
        name = placeholder_name(category)
        self._learn(name, compare_key(category, text), number)
        self._last[name] = max(number, self._last.get(name, 0))

    def _learn(self, name: str, key: frozenset[str], number: int) -> None:
        self._exact[name, key] = number
        self._known.setdefault(name, {}).setdefault(number, set()).update(key)

    def _related(self, name: str, key: frozenset[str]) -> int | None:
        """Return the only person one of whose names includes the other's."""
        found = [
            number
            for number, words in self._known.get(name, {}).items()
            if key <= words or words <= key
        ]
        return found[0] if len(found) == 1 else None

    def _next(self, name: str) -> int:
        number = self._last.get(name, 0) + 1
        while f"[{name}_{number}]" in self._taken:
            number += 1
        self._last[name] = number
        return number

    def placeholder(self, category: str, text: str, *, is_number: bool = False) -> str:
        """Return the placeholder of a value, such as `[PERSON_1]`.

        `is_number` matters to a vault only.
        """
        return f"[{placeholder_name(category)}_{self.number(category, text)}]"
