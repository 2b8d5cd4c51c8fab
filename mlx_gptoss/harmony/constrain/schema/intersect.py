"""Intersect sets of JSON values.

The schemas of fields and items are not read: where two sets meet, theirs become an
`allOf`.
"""

from collections.abc import Mapping
from dataclasses import replace

from mlx_gptoss.harmony.constrain.schema.numbers import Bound
from mlx_gptoss.harmony.constrain.schema.value_sets import (
    Allows,
    Array,
    Constant,
    Number,
    Object,
    Text,
    ValueSet,
    all_of,
    is_empty,
    is_member,
    item_schema,
)
from mlx_gptoss.harmony.references import Schema


def intersect(one: ValueSet, two: ValueSet, allows: Allows) -> ValueSet | None:
    """Return the intersection of two sets; None if it is empty."""
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


def _possible(value_set: ValueSet) -> ValueSet | None:
    return None if is_empty(value_set) else value_set


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
        tuple(
            all_of(item_schema(one, place), item_schema(two, place)) for place in places
        ),
        all_of(one.items, two.items),
    )


def _objects(one: Object, two: Object) -> Object:
    names = dict.fromkeys([*one.fields, *two.fields])
    patterns = {
        # A name that matches no pattern of the other is among its `others`. With
        # patterns on both sides this is unknown: the result allows more.
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
