"""A unit of a document, with the fields that may be masked in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlx_gptoss.workloads.redact.redactor import Field


class Value(NamedTuple):
    """A field's new text; `is_number` if it is written as a number of JSON."""

    text: str
    is_number: bool = False


@dataclass(frozen=True)
class Unit:
    """Fields, where each is (`/name`, `row 3, column mail`), and the way back.

    `render` takes a value for each field and returns the unit's text.
    """

    fields: tuple[Field, ...]
    places: tuple[str, ...]
    render: Callable[[Sequence[Value]], str]


def text_unit(text: str) -> Unit:
    """Return a text as a unit of one field."""
    return Unit((Field(text),), ("",), lambda values: values[0].text)
