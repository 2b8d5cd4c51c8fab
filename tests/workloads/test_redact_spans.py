"""Spans that cut no character and no number, their union, patterns and placeholders."""

import itertools

import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.workloads.redact.patterns import find_patterns
from mlx_gptoss.workloads.redact.placeholders import Numbering
from mlx_gptoss.workloads.redact.spans import (
    PrivateSpan,
    byte_ranges,
    characters_of_tokens,
    unite,
    whole_spans,
)

PIECES = ["a", " ", "\r\n", "12", "3.4", "é", "e\u0301", "👩‍👩‍👧", "🇫🇷", "한", "-", "7"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def span(
    start: int, end: int, category: str = "x", found: str = "model"
) -> PrivateSpan:
    return PrivateSpan(start, end, category, 0.5, (found,))


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.data())
def test_spans_cut_nothing_and_lose_nothing(text: str, data: st.DataObject) -> None:
    places = st.integers(0, len(text))
    drawn = [sorted((data.draw(places), data.draw(places))) for _ in range(3)]
    spans = [span(a, b) for a, b in drawn if a < b]
    found = unite(whole_spans(text, spans))
    graphemes = {match.start() for match in regex.finditer(r"\X", text)} | {len(text)}
    for one in found:
        assert {one.start, one.end} <= graphemes
        for place in (one.start, one.end):
            assert not text[max(0, place - 1) : place + 1].isdecimal() or place in (
                0,
                len(text),
            )
        assert text[one.start : one.end].strip()
    covered = {n for one in found for n in range(one.start, one.end)}
    for one in spans:
        left = set(range(one.start, one.end)) - covered
        assert all(text[n].isspace() for n in left)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.data())
def test_places_in_characters_and_in_bytes_agree(
    text: str, data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=5))
    bounds = sorted({0, len(raw), *cuts})
    sizes = [b - a for a, b in itertools.pairwise(bounds)]
    found = characters_of_tokens(text, sizes)
    assert found is not None
    start = 0
    for (first, last), size in zip(found, sizes, strict=True):
        inside = text[first:last].encode()
        before = len(text[:first].encode())
        assert before <= start and start + size <= before + len(inside)
        start += size
    spans = [span(a, b) for a, b in found]
    for (a, b), one in zip(byte_ranges(text, spans[:1]), spans[:1], strict=True):
        assert raw[a:b].decode() == text[one.start : one.end]
    assert characters_of_tokens(text + "x", sizes) is None


def test_a_number_is_masked_whole() -> None:
    for text, inside, whole in [
        ("call 555-0199 now", "555", "555-0199"),
        ("card 4111 1111 1111 1111.", "4111 1111", "4111 1111 1111 1111"),
        ("sum 1,234.50 EUR", "234", "1,234.50"),
        ("in 2023 15 people", "2023", "2023"),
    ]:
        start = text.index(inside)
        (found,) = whole_spans(text, [span(start, start + len(inside))])
        assert text[found.start : found.end] == whole


def test_the_union_says_which_found_what() -> None:
    found = unite([span(0, 9, "a"), span(4, 20, "b", "iban"), span(30, 31, "c")])
    assert [(one.start, one.end, one.category) for one in found] == [
        (0, 20, "b"),
        (30, 31, "c"),
    ]
    assert found[0].found_by == ("iban", "model")


FOUND = {
    "write to jane.o'neil+x@mail.example.co.uk.": "jane.o'neil+x@mail.example.co.uk",
    "to jürgen@müller.de": "jürgen@müller.de",
    "card 4111 1111 1111 1111": "4111 1111 1111 1111",
    "card 378282246310005, thanks": "378282246310005",
    "IBAN DE89 3704 0044 0532 0130 00 by Monday": "DE89 3704 0044 0532 0130 00",
    "IBAN GB82WEST12345698765432": "GB82WEST12345698765432",
    "FR1420041010050500013M02606 2024": "FR1420041010050500013M02606",
    "tel +49 (0)30 901820 or": "+49 (0)30 901820",
    "tel +1 415-555-2671.": "+1 415-555-2671",
    "key ghp_" + "a1B2" * 9: "ghp_" + "a1B2" * 9,
    "AKIAIOSFODNN7EXAMPLE": "AKIAIOSFODNN7EXAMPLE",
    "postgres://bob:hunter2@db/x": "hunter2",
    "Authorization: Bearer abcdefghijklmnop0123456789": "abcdefghijklmnop0123456789",
    "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----": "-----BEGIN PRIVATE"
    " KEY-----\nMIIB\n-----END PRIVATE KEY-----",
}
NOT_FOUND = (
    "4111 1111 1111 1112",  # a wrong checksum
    "0000 0000 0000 0000",
    "DE89 3704 0044 0532 0130 01",
    "version 1.2.3, 2024-05-17, 10:30",
    "a@b",
    "3.14159265358979323846",
    "+5 apples and +12",
    "sk-short",
)


def test_patterns_find_what_they_are_for() -> None:
    for text, private in FOUND.items():
        found = [text[one.start : one.end] for one in find_patterns(text)]
        assert private in found, (text, found)
    for text in NOT_FOUND:
        assert find_patterns(text) == [], text


def test_patterns_take_time_in_proportion() -> None:
    """Texts that make careless expressions try every way end at all."""
    for piece in ("a.", "1 ", "a@", "x-", "eyJa", "DE12", "+1(", "-----BEGIN "):
        find_patterns(piece * 20_000)


def test_persons_are_numbered() -> None:
    numbering = Numbering()
    names = ["Alice Smith", "Bob", "ALICE", "Ms Smith", "Bob Smith", "Smith", "Eve's"]
    made = [numbering.placeholder("private_person", name) for name in names]
    assert made == [f"[PERSON_{n}]" for n in (1, 2, 1, 1, 2, 1, 3)]
    other = Numbering()  # in which two persons have the name
    made = [other.number("private_person", x) for x in ("Al Orr", "Bo Orr", "Orr")]
    assert made == [1, 2, 3]
    assert numbering.placeholder("private_phone", "+1 (415) 555") == "[PHONE_1]"
    assert numbering.placeholder("private_phone", "+1 415-555") == "[PHONE_1]"
    assert numbering.placeholder("account_number", "7") == "[ACCOUNT_NUMBER_1]"


def test_a_placeholder_in_the_text_is_not_given_again() -> None:
    numbering = Numbering()
    numbering.avoid("see [PERSON_1] and [PERSON_2]")
    assert numbering.placeholder("private_person", "Alice") == "[PERSON_3]"
