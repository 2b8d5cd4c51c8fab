"""Shapes of JSON values: each of one type, with what binds it, and how two meet.

A schema is a union of them (`unions.py` reads it so). The schemas of fields and items
stay as they are: where two shapes meet, theirs become `allOf`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


def intersect(one: ValueSet, two: ValueSet, allows: Allows) -> ValueSet | None:
    """The shape of what has both shapes; None if nothing has."""
    if isinstance(two, Constant):
        one, two = two, one
    if isinstance(one, Constant):
        return one if is_member(one.value, two, allows) else None
    if isinstance(one, Number) and isinstance(two, Number):
        return _possible(
            Number(
                _tighter(one.low, two.low, highest=True),
                _tighter(one.high, two.high, highest=False),
                one.integral or two.integral,
                tuple(dict.fromkeys(one.multiples + two.multiples)),
            )
        )
    if isinstance(one, Text) and isinstance(two, Text):
        return _possible(
            Text(
                max(one.least, two.least),
                _fewer(one.most, two.most),
                tuple(dict.fromkeys(one.patterns + two.patterns)),
                tuple(dict.fromkeys(one.formats + two.formats)),
            )
        )
    if isinstance(one, Array) and isinstance(two, Array):
        return _possible(_arrays(one, two))
    if isinstance(one, Object) and isinstance(two, Object):
        return _possible(_objects(one, two))
    return None


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


def _possible(shape: ValueSet) -> ValueSet | None:
    return None if is_empty(shape) else shape


def _tighter(one: Bound | None, two: Bound | None, *, highest: bool) -> Bound | None:
    if one is None or two is None:
        return one or two
    if one.value == two.value:
        return replace(one, inclusive=one.inclusive and two.inclusive)
    return one if (one.value > two.value) == highest else two


def _fewer(one: int | None, two: int | None) -> int | None:
    return min((most for most in (one, two) if most is not None), default=None)


def _arrays(one: Array, two: Array) -> Array:
    places = range(max(len(one.prefix), len(two.prefix)))
    return Array(
        max(one.least, two.least),
        _fewer(one.most, two.most),
        tuple(all_of(_item(one, place), _item(two, place)) for place in places),
        all_of(one.items, two.items),
    )


def _item(shape: Array, place: int) -> Schema:
    return shape.prefix[place] if place < len(shape.prefix) else shape.items


def _objects(one: Object, two: Object) -> Object:
    names = dict.fromkeys([*one.fields, *two.fields])
    patterns = {
        # What matches none of the other's patterns is among its others; with
        # patterns on both sides one cannot say, and lets more through.
        **{key: _unless(two.patterns, one.patterns[key], two) for key in one.patterns},
        **{key: _unless(one.patterns, two.patterns[key], one) for key in two.patterns},
    }
    for key in one.patterns.keys() & two.patterns.keys():
        patterns[key] = all_of(one.patterns[key], two.patterns[key])
    return Object(
        {name: all_of(one.schema_of(name), two.schema_of(name)) for name in names},
        tuple(dict.fromkeys(one.required + two.required)),
        all_of(one.others, two.others),
        patterns,
        max(one.least, two.least),
        _fewer(one.most, two.most),
    )


def _unless(patterns: Mapping[str, Schema], schema: Schema, other: Object) -> Schema:
    return schema if patterns else all_of(schema, other.others)


def _paired(value: Sequence[Any], shape: Array) -> Iterator[tuple[Any, Schema]]:
    for place, item in enumerate(value):
        yield item, _item(shape, place)


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
