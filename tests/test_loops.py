"""Text that goes in circles is told from text that does not."""

from collections.abc import Iterable
from itertools import count, islice
from pathlib import Path

import pytest

from mlx_gptoss.harmony.loops import WINDOW, LoopDetector
from mlx_gptoss.tokenizer import Tokenizer

DEMO = Path(__file__).parents[1] / "mlx_gptoss" / "demo"
ENOUGH = 4 * WINDOW


def first_loop(tokens: Iterable[int]) -> int | None:
    """The place of the token at which a detector calls it a loop."""
    detector = LoopDetector()
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
    """A counter that goes up in each copy of a sentence."""
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
    tokenizer = Tokenizer.open(DEMO)
    rows = "".join(
        f"| {n} | {n * n} | {'even' if n % 2 == 0 else 'odd'} |\n" for n in range(150)
    )
    counting = ", ".join(map(str, range(600)))

    assert first_loop(tokenizer.encode(rows)) is None
    assert first_loop(tokenizer.encode(counting)) is None
