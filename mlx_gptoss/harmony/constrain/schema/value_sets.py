"""Sets of JSON values: each of one type, with bounds.

A schema is a union of them (see `unions.py`). The schemas of fields and items are kept
as given.
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
FEW_DIGITS = 2.0**53  # whole numbers below it are exact floats


def canonical_json(value: Any) -> Any:
    """Return a value in which 1.0 is written 1: JSON Schema holds them equal."""
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
    """One value; `key` is the same for all values that are equal in JSON."""

    key: str
    value: Any = field(compare=False)

    @classmethod
    def of(cls, value: Any) -> "Constant":
        return cls(json.dumps(canonical_json(value), sort_keys=True), value)


@dataclass(frozen=True)
class Number:
    """Numbers between two bounds, whole if `integral`, of all `multiples`."""

    low: Bound | None = None
    high: Bound | None = None
    integral: bool = False
    multiples: tuple[int | float, ...] = ()


@dataclass(frozen=True)
class Text:
    """Strings of `least` to `most` characters, with patterns and formats."""

    least: int = 0
    most: int | None = None
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Array:
    """Arrays of `least` to `most` items; the first ones by `prefix`."""

    least: int = 0
    most: int | None = None
    prefix: tuple[Schema, ...] = ()
    items: Schema = True


@dataclass(frozen=True)
class Object:
    """Objects with schemas for named `fields`, for `patterns` of names, and others."""

    fields: Mapping[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    others: Schema = True
    patterns: Mapping[str, Schema] = field(default_factory=dict)
    least: int = 0
    most: int | None = None

    def schema_of(self, name: str) -> Schema:
        """Return the schema of any field, named or not."""
        return self.fields[name] if name in self.fields else self.unnamed(name)

    def unnamed(self, name: str) -> Schema:
        """Return the schema of a field that is not in `fields`."""
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
    """Return a schema that requires all of these."""
    found: list[Schema] = []
    for one in schemas:
        if one is False:
            return False
        if one is not True and one != {} and one not in found:
            found.append(one)
    if len(found) < 2:
        return found[0] if found else True
    return {"allOf": found}


def is_empty(value_set: ValueSet) -> bool:
    """Whether bounds exclude everything; other contradictions are not detected."""
    if isinstance(value_set, Number):
        return _is_empty(value_set)
    if isinstance(value_set, Constant) or value_set.most is None:
        return False
    least = value_set.least
    if isinstance(value_set, Object):
        least = max(least, len(value_set.required))
    return least > value_set.most


def _is_empty(value_set: Number) -> bool:
    low, high = value_set.low, value_set.high
    if low is None or high is None:
        return False
    if value_set.integral:
        first = math.ceil(low.value)
        last = math.floor(high.value)
        first += first == low.value and not low.inclusive
        last -= last == high.value and not high.inclusive
        return first > last
    if low.value == high.value:
        return not (low.inclusive and high.inclusive)
    return low.value > high.value


def is_member(value: Any, value_set: ValueSet, allows: Allows) -> bool:
    """Whether a value is in a set; formats are not checked."""
    if isinstance(value_set, Constant):
        return Constant.of(value) == value_set
    if isinstance(value_set, Number):
        return _is_number(value) and _in_range(value, value_set)
    if isinstance(value_set, Text):
        return (
            isinstance(value, str)
            and _counts(len(value), value_set)
            and all(pattern_matches(pattern, value) for pattern in value_set.patterns)
        )
    if isinstance(value_set, Array):
        return (
            isinstance(value, list)
            and _counts(len(value), value_set)
            and all(allows(item, one) for item, one in _paired(value, value_set))
        )
    return (
        isinstance(value, Mapping)
        and _counts(len(value), value_set)
        and all(name in value for name in value_set.required)
        and all(allows(item, value_set.schema_of(name)) for name, item in value.items())
    )


def pattern_matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text.

    True also for an invalid pattern and after MATCH_SECONDS: patterns come from
    clients, and a search may backtrack without end.
    """
    try:
        found = regex.search(pattern, text, timeout=MATCH_SECONDS, concurrent=True)
    except (regex.error, OverflowError, RecursionError, TimeoutError):
        return True
    return found is not None


def to_decimal(value: int | float) -> Decimal:
    """Convert a number to its shortest decimal, which is how JSON writes it."""
    return Decimal(value if isinstance(value, int) else repr(value))


def decimal_range(value: int | float) -> tuple[Decimal, Decimal]:
    """Return the least and the largest decimal that a number may represent.

    The shortest decimal of a large float does not have all digits of its value.
    """
    written, exact = to_decimal(value), Decimal(value)
    if isinstance(value, float) and abs(value) >= FEW_DIGITS:
        return min(written, exact), max(written, exact)
    return written, written


def item_schema(value_set: Array, place: int) -> Schema:
    return value_set.prefix[place] if place < len(value_set.prefix) else value_set.items


def _paired(value: Sequence[Any], value_set: Array) -> Iterator[tuple[Any, Schema]]:
    for place, item in enumerate(value):
        yield item, item_schema(value_set, place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_range(value: int | float, value_set: Number) -> bool:
    least, most = decimal_range(value)
    low, high = value_set.low, value_set.high
    if low and (most < low.value or (most == low.value and not low.inclusive)):
        return False
    if high and (least > high.value or (least == high.value and not high.inclusive)):
        return False
    return not value_set.integral or least == least.to_integral_value()


def _counts(count: int, value_set: Text | Array | Object) -> bool:
    return value_set.least <= count and (
        value_set.most is None or count <= value_set.most
    )
