"""Text that repeats itself is detected, and other text is not."""

import base64
from collections.abc import Iterable
from itertools import count, islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.harmony.constrain.loops import (
    ALLOWED,
    CHECK_EVERY,
    EXACTLY,
    LONGEST_CYCLE,
    NEARLY,
    WINDOW,
    CycleDetector,
    LoopDetector,
    period,
)
from tests.support.vocabulary import O200k

ENOUGH = 4 * WINDOW


def first_loop(tokens: Iterable[int], share: float = NEARLY) -> int | None:
    """Return the index of the token at which a detector finds a loop."""
    detector = LoopDetector(share=share)
    for place, token in enumerate(islice(tokens, ENOUGH)):
        if detector.feed(token):
            return place
    return None


@pytest.mark.parametrize("period", [1, 2, 7, 50, 200])
def test_an_exact_cycle_is_found(period: int) -> None:
    place = first_loop(n % period for n in count())

    assert place is not None
    assert place < 4 * period + WINDOW


def test_copies_that_differ_a_little_are_found() -> None:
    """A counter that increases in each copy of a sentence."""
    place = first_loop(n if n % 30 == 0 else n % 30 for n in count())

    assert place is not None


def test_a_cycle_after_much_else_is_found() -> None:
    fresh = range(100_000, 100_000 + WINDOW)
    place = first_loop([*fresh, *(n % 9 for n in range(ENOUGH))])

    assert place is not None and place > WINDOW


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_long_text_may_be_repeated_a_few_times(copies: int) -> None:
    assert first_loop(list(range(WINDOW)) * copies) is None


def test_tables_lists_and_counting_are_no_loops() -> None:
    rows = "".join(
        f"| {n} | {n * n} | {'even' if n % 2 == 0 else 'odd'} |\n" for n in range(600)
    )
    counting = ", ".join(map(str, range(3000)))

    assert first_loop(O200k().encode(rows)) is None
    assert first_loop(O200k().encode(counting)) is None


RECORDS = {
    "json": '  {{\n    "id": {n},\n    "name": "{word}",\n    "role": "user",\n'
    '    "active": true,\n    "rights": [\n      "read",\n      "write"\n    ]\n'
    "  }},\n",
    "sql": "INSERT INTO customers (id, name, email, country, created_at) VALUES "
    "({n}, '{word}', '{word}@example.com', 'US', NOW());\n",
    "html": '<tr class="row"><td class="cell name">{word}</td><td class="cell value">'
    '{n}</td><td><button class="btn" onclick="edit({n})">Edit</button></td></tr>\n',
    "code": "def test_add_{n}():\n    result = add({n}, {n})\n    assert result\n\n",
}


@pytest.mark.parametrize("kind", RECORDS)
def test_an_answer_of_many_like_records_is_no_loop(kind: str) -> None:
    words = ("alpha", "omega", "rho", "mu", "kappa", "delta", "sigma")
    text = "".join(
        RECORDS[kind].format(n=n, word=words[n * n % len(words)]) for n in range(300)
    )
    ids = O200k().encode(text)

    assert len(ids) > 2 * WINDOW
    assert first_loop(ids, EXACTLY) is None


def test_an_answer_that_only_repeats_itself_is() -> None:
    place = first_loop(O200k().encode("It is what it is, and so on. " * 1000), EXACTLY)

    assert place is not None and place < WINDOW + 100


# What programs read


def first_cycle(tokens: Iterable[int]) -> int | None:
    """Return the index of the token at which an exact cycle is found."""
    detector = CycleDetector()
    for place, token in enumerate(tokens):
        if detector.feed(token):
            return place
    return None


@pytest.mark.parametrize("length", [1, 2, 7, 50, LONGEST_CYCLE])
@pytest.mark.parametrize("before", [0, 5000])
def test_an_exact_cycle_is_told_once_it_is_long(length: int, before: int) -> None:
    text = [*range(10**6, 10**6 + before), *(n % length for n in range(3 * ALLOWED))]
    place = first_cycle(text)

    assert place is not None
    assert ALLOWED <= place + 1 - before < ALLOWED + CHECK_EVERY


def rows(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def bits(size: int) -> str:
    """A random grid: it has only four distinct n-grams, but no cycle."""
    random = Random(1)
    return rows(",".join(random.choice("01") for _ in range(size)) for _ in range(size))


PICTURE = rows("#" * (n % 23) + "." * (40 - n % 23) + "|" for n in range(60))
LEGITIMATE = {
    "a table of zeros": rows(",".join("0" * 44) for _ in range(44)),
    "zeros in base64": base64.encodebytes(bytes(18_000)).decode(),
    "a unit matrix": str([[int(n == m) for m in range(60)] for n in range(60)]),
    "bits by chance": bits(60),
    "rows of a table": rows(f"{n},open,0,0,0,0.00,EUR,," for n in range(700)),
    "records that differ in a number": "".join(
        RECORDS["json"].format(n=n, word="alpha") for n in range(300)
    ),
    "a drawing, three times": rows([PICTURE] * 3),
    "rulers": rows("-" * 78 for _ in range(500)),
    "empty cells": "|" + "  |" * 2000,
}


@pytest.mark.parametrize("what", LEGITIMATE)
def test_what_programs_read_may_repeat_itself(what: str) -> None:
    assert first_cycle(O200k().encode(LEGITIMATE[what])) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_the_period_is_the_smallest_shift_onto_itself(
    text: list[int],
) -> None:
    shifts = range(1, len(text) + 1)
    alike = [n for n in shifts if text[n:] == text[: len(text) - n]]

    assert period(text) == alike[0]
