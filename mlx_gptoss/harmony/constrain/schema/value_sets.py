"""Shapes of JSON values: each of one type, with what binds it, and how two meet.

A schema is a union of them (`unions.py` reads it so). The schemas of fields and items
stay as they are: where two shapes meet, theirs become `allOf`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import regex

from mlx_gptoss.harmony.constrain.schema.numbers import Bound
from mlx_gptoss.harmony.references import Schema

MATCH_SECONDS = 0.2
FEW_DIGITS = 2.0**53  # whole numbers below it are floats without loss


def canonical_json(value: Any) -> Any:
    """The same for 1 and 1.0, as JSON Schema has it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: canonical_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [canonical_json(one) for one in value]
    return value


Allows = Callable[[Any, Schema], bool]


@dataclass(frozen=True)
class Constant:
    """One value; `key` is the same for those that JSON holds to be equal."""

    key: str
    value: Any = field(compare=False)

    @classmethod
    def of(cls, value: Any) -> "Constant":
        return cls(json.dumps(canonical_json(value), sort_keys=True), value)


@dataclass(frozen=True)
class Number:
    low: Bound | None = None
    high: Bound | None = None
    integral: bool = False
    multiples: tuple[int | float, ...] = ()


@dataclass(frozen=True)
class Text:
    least: int = 0
    most: int | None = None
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Array:
    least: int = 0
    most: int | None = None
    prefix: tuple[Schema, ...] = ()
    items: Schema = True


@dataclass(frozen=True)
class Object:
    """`fields` have names, those that match one of `patterns`, and all `others`."""

    fields: Mapping[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    others: Schema = True
    patterns: Mapping[str, Schema] = field(default_factory=dict)
    least: int = 0
    most: int | None = None

    def schema_of(self, name: str) -> Schema:
        """The schema of a field that may have no name here."""
        return self.fields[name] if name in self.fields else self.unnamed(name)

    def unnamed(self, name: str) -> Schema:
        found = [
            one for key, one in self.patterns.items() if pattern_matches(key, name)
        ]
        return all_of(*found) if found else self.others


ValueSet = Constant | Number | Text | Array | Object
NULL = Constant.of(None)
BOOLEANS = (Constant.of(True), Constant.of(False))
ALL: tuple[ValueSet, ...] = (NULL, *BOOLEANS, Number(), Text(), Array(), Object())


def is_everything(union: Sequence[ValueSet]) -> bool:
    """Whether a union is `ALL`, in its order."""
    return len(union) == len(ALL) and all(
        one is two or one == two for one, two in zip(union, ALL, strict=True)
    )


def all_of(*schemas: Schema) -> Schema:
    """A schema that says what all of these say."""
    found: list[Schema] = []
    for one in schemas:
        if one is False:
            return False
        if one is not True and one != {} and one not in found:
            found.append(one)
    if len(found) < 2:
        return found[0] if found else True
    return {"allOf": found}


def is_empty(shape: ValueSet) -> bool:
    """Whether bounds leave nothing; other contradictions are not looked for."""
    if isinstance(shape, Number):
        return _is_empty(shape)
    if isinstance(shape, Constant) or shape.most is None:
        return False
    least = shape.least
    if isinstance(shape, Object):
        least = max(least, len(shape.required))
    return least > shape.most


def _is_empty(shape: Number) -> bool:
    low, high = shape.low, shape.high
    if low is None or high is None:
        return False
    if shape.integral:
        first = math.ceil(low.value)
        last = math.floor(high.value)
        first += first == low.value and not low.inclusive
        last -= last == high.value and not high.inclusive
        return first > last
    if low.value == high.value:
        return not (low.inclusive and high.inclusive)
    return low.value > high.value


def is_member(value: Any, shape: ValueSet, allows: Allows) -> bool:
    """Whether a value has a shape; formats are not looked at."""
    if isinstance(shape, Constant):
        return Constant.of(value) == shape
    if isinstance(shape, Number):
        return _is_number(value) and _in_range(value, shape)
    if isinstance(shape, Text):
        return (
            isinstance(value, str)
            and _counts(len(value), shape)
            and all(pattern_matches(pattern, value) for pattern in shape.patterns)
        )
    if isinstance(shape, Array):
        return (
            isinstance(value, list)
            and _counts(len(value), shape)
            and all(allows(item, one) for item, one in _paired(value, shape))
        )
    return (
        isinstance(value, Mapping)
        and _counts(len(value), shape)
        and all(name in value for name in shape.required)
        and all(allows(item, shape.schema_of(name)) for name, item in value.items())
    )


def pattern_matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text.

    So is one that cannot be read, or takes long: patterns come from callers, and a
    search may go back and forth for ever.
    """
    try:
        found = regex.search(pattern, text, timeout=MATCH_SECONDS, concurrent=True)
    except (regex.error, OverflowError, RecursionError, TimeoutError):
        return True
    return found is not None


def to_decimal(value: int | float) -> Decimal:
    """A number as its shortest decimal, which is what JSON shows of it."""
    return Decimal(value if isinstance(value, int) else repr(value))


def decimal_range(value: int | float) -> tuple[Decimal, Decimal]:
    """The least and the largest decimal that a number may be meant to be.

    A large float is a whole number, of which its shortest decimal is not all digits.
    """
    written, exact = to_decimal(value), Decimal(value)
    if isinstance(value, float) and abs(value) >= FEW_DIGITS:
        return min(written, exact), max(written, exact)
    return written, written


def item_schema(shape: Array, place: int) -> Schema:
    return shape.prefix[place] if place < len(shape.prefix) else shape.items


def _paired(value: Sequence[Any], shape: Array) -> Iterator[tuple[Any, Schema]]:
    for place, item in enumerate(value):
        yield item, item_schema(shape, place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_range(value: int | float, shape: Number) -> bool:
    least, most = decimal_range(value)
    low, high = shape.low, shape.high
    if low and (most < low.value or (most == low.value and not low.inclusive)):
        return False
    if high and (least > high.value or (least == high.value and not high.inclusive)):
        return False
    return not shape.integral or least == least.to_integral_value()


def _counts(count: int, shape: Text | Array | Object) -> bool:
    return shape.least <= count and (shape.most is None or count <= shape.most)
