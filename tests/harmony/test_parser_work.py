"""The work of the parser is linear in the number of ids."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.harmony.test_harmony_parse import parse
from tests.support.vocabulary import ids_of

# Work is counted, not timed: calls, and the lengths of the texts they run over.
LENGTH = 300
CONSTANT = {"startswith", "append", "isinstance"}  # whatever the length
LINEAR = 2.2  # of twice as many ids; a quadratic reading has 4


def work(read: Callable[[list[int]], object], ids: list[int]) -> int:
    total = 0

    def count(frame: object, event: str, called: Any) -> None:
        nonlocal total
        if event == "call":
            total += 1
        elif event == "c_call":
            text = getattr(called, "__self__", None)
            if called.__name__ in CONSTANT or not isinstance(text, str | bytes):
                text = ""
            total += 1 + len(text)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        read(ids)
    finally:
        sys.setprofile(before)
    return total


def growth(read: Callable[[list[int]], object], unit: list[int]) -> float:
    return work(read, unit * 2 * LENGTH) / work(read, unit * LENGTH)


REPEATED = [
    "<|channel|>",
    "<|channel|>final",
    "<|channel|>analysis We must",
    "<|constrain|>json",
    "<|start|>",
    "<|end|>",
    "<|message|>a",
    "We<|end|>",
    " We",
    " to=",
    " to=f",
    "<|channel|>analysis to=functions.f<|message|>{}<|end|>",
    "assistant<|channel|>analysis to=functions.f<|message|>[[",
    "<|start|>user<|message|>Hi<|end|>",
    "{",
    "\xe9",
]


@pytest.mark.parametrize("unit", REPEATED)
def test_the_work_is_linear_whatever_repeats(unit: str) -> None:
    assert growth(parse, ids_of(unit)) < LINEAR


def test_work_that_grows_with_what_was_read_is_seen() -> None:
    def reread(ids: list[int]) -> None:
        text = b""
        for _ in ids:
            text += b"a"
            text.decode()

    assert growth(reread, [0]) > LINEAR
