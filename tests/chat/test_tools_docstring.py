"""Docstrings of every style describe tools."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.chat.tools.docstring import parse_docstring

NUMPY = """Add numbers.

Parameters
----------
a, b : int
    The numbers,
    both.
*rest
    More of them.

Returns
-------
int
    The sum.
"""
SPHINX = """Add numbers.

:param a: The first
    of them.
:param int b: The second.
:type b: int
:returns: The sum: always.
"""
GOOGLE = """Add numbers.

Note well: this is text.

Args:
    a: The first
        of them.
    b (int, optional): The second: always.

Raises:
    ValueError: If a is not a number.
"""


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (
            NUMPY,
            {"a": "The numbers, both.", "b": "The numbers, both."}
            | {"rest": "More of them."},
        ),
        (SPHINX, {"a": "The first of them.", "b": "The second."}),
        (GOOGLE, {"a": "The first of them.", "b": "The second: always."}),
        ("Add numbers.", {}),
    ],
    ids=["numpy", "sphinx", "google", "plain"],
)
def test_docstrings_of_every_style_are_read(
    text: str, parameters: dict[str, str]
) -> None:
    read = parse_docstring(text)

    assert read.description.startswith("Add numbers.")
    assert read.parameters == parameters


@given(st.text(alphabet="Args:\n -|par m`*(),x", max_size=80))
def test_no_docstring_makes_the_reader_fail(text: str) -> None:
    assert isinstance(parse_docstring(text).description, str)
