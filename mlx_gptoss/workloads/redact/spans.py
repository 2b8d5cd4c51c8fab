"""Spans of private text: where, what, how sure, and what found them.

Positions count code points of a text; `byte_range` gives bytes of UTF-8. Knows nothing
of models.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import regex

MODEL = "model"
# Digits that are read as one number: joined by punctuation, or three groups and more.
NUMBER = regex.compile(
    r"(?<!\d)(?:\d{2,5}[ \u00a0\u202f]){2,}\d{2,5}(?!\d)"
    r"|\d++(?:[.,:/'\u2019_\u2013\-]\d++)*+"
)
GRAPHEME = regex.compile(r"\X")


@dataclass(frozen=True)
class PrivateSpan:
    """A private part of a text: `text[start:end]`.

    category: of the model's labels, such as `private_person`.
    confidence: from 0 to 1; the model's mean probability of the category over the
        tokens, 1 for a pattern.
    found_by: `model`, or the names of patterns, or both.
    """

    start: int
    end: int
    category: str
    confidence: float
    found_by: tuple[str, ...]

    def shifted(self, by: int) -> "PrivateSpan":
        return replace(self, start=self.start + by, end=self.end + by)


def byte_range(text: str, span: PrivateSpan) -> tuple[int, int]:
    """Return the range of a span in the text's UTF-8 bytes."""
    start = len(text[: span.start].encode("utf-8", "surrogatepass"))
    inside = text[span.start : span.end].encode("utf-8", "surrogatepass")
    return start, start + len(inside)


def byte_ranges(text: str, spans: Sequence[PrivateSpan]) -> list[tuple[int, int]]:
    """Return the ranges of sorted spans in the text's UTF-8 bytes, in one pass."""
    found, place, done = [], 0, 0
    for span in spans:
        done += len(text[place : span.start].encode("utf-8", "surrogatepass"))
        inside = text[span.start : span.end].encode("utf-8", "surrogatepass")
        found.append((done, done + len(inside)))
        done, place = done + len(inside), span.end
    return found


def characters_of_tokens(text: str, sizes: Sequence[int]) -> np.ndarray | None:
    """Return the characters each token touches: (tokens, 2), first and one past last.

    `sizes` are the tokens' bytes. A character may belong to several tokens. None if
    the tokens are not the bytes of the text.
    """
    data = np.frombuffer(text.encode(), np.uint8)
    ends = np.cumsum(np.asarray(sizes, np.int64))
    if len(data) != (ends[-1] if len(ends) else 0):
        return None
    character = np.cumsum((data & 0xC0) != 0x80) - 1  # of each byte
    starts = ends - sizes
    whole = np.maximum(ends - 1, starts)
    inside = np.minimum(np.stack([starts, whole], axis=1), max(len(data) - 1, 0))
    found = character[inside] if len(data) else np.zeros((len(ends), 2), np.int64)
    found[:, 1] += 1
    return found


def whole_spans(text: str, spans: Iterable[PrivateSpan]) -> list[PrivateSpan]:
    """Trim white space, then widen spans so that none cuts a grapheme or a number."""
    trimmed = [one for one in (trim(text, span) for span in spans) if one is not None]
    if not trimmed:
        return []
    atoms = _Atoms(text)
    return [
        replace(one, start=atoms.start(one.start), end=atoms.end(one.end))
        for one in trimmed
    ]


def trim(text: str, span: PrivateSpan) -> PrivateSpan | None:
    """Return a span without white space at its ends; None if nothing is left."""
    inside = text[span.start : span.end]
    start = span.start + len(inside) - len(inside.lstrip())
    end = span.end - len(inside) + len(inside.rstrip())
    return replace(span, start=start, end=end) if start < end else None


class _Atoms:
    """The parts of a text that are masked whole or not at all."""

    def __init__(self, text: str) -> None:
        self._numbers = [match.span() for match in NUMBER.finditer(text)]
        self._starts = [start for start, _ in self._numbers]
        self._graphemes: list[int] | None = None
        if not text.isascii() or "\r\n" in text:
            self._graphemes = [match.start() for match in GRAPHEME.finditer(text)]
            self._graphemes.append(len(text))

    def start(self, place: int) -> int:
        """Return the last position up to `place` where a mask may begin."""
        while (found := self._grapheme_start(self._number(place)[0])) != place:
            place = found
        return place

    def end(self, place: int) -> int:
        """Return the first position from `place` on where a mask may end."""
        while (found := self._grapheme_end(self._number(place)[1])) != place:
            place = found
        return place

    def _number(self, place: int) -> tuple[int, int]:
        """Return the number that `place` would cut, else an empty range at it."""
        at = bisect.bisect_left(self._starts, place) - 1
        if at >= 0 and self._numbers[at][0] < place < self._numbers[at][1]:
            return self._numbers[at]
        return place, place

    def _grapheme_start(self, place: int) -> int:
        found = self._graphemes
        return place if found is None else found[bisect.bisect_right(found, place) - 1]

    def _grapheme_end(self, place: int) -> int:
        found = self._graphemes
        return place if found is None else found[bisect.bisect_left(found, place)]


def unite(spans: Iterable[PrivateSpan]) -> list[PrivateSpan]:
    """Return the union, sorted: spans that overlap become one.

    It is named after its longest part, of equal ones after that which is no model's;
    it is as sure as the surest, and found by all.
    """
    found: list[PrivateSpan] = []
    named: list[PrivateSpan] = []  # the part that each is named after
    for span in sorted(spans, key=lambda one: (one.start, -one.end)):
        if not found or span.start >= found[-1].end:
            found.append(span)
            named.append(span)
            continue
        last = found[-1]
        if _precedence(span) > _precedence(named[-1]):
            named[-1] = span
        found[-1] = PrivateSpan(
            last.start,
            max(last.end, span.end),
            named[-1].category,
            max(last.confidence, span.confidence),
            tuple(sorted({*last.found_by, *span.found_by})),
        )
    return found


def _precedence(span: PrivateSpan) -> tuple[int, bool]:
    return span.end - span.start, MODEL not in span.found_by
