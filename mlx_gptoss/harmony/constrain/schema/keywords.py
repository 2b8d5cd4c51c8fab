"""The keywords of one schema, without those that bring others: its shapes by type.

    Keywords(schema, note).shapes()

A keyword whose value makes no sense (`type: "int"`, `required: null`, a bound that is
text) says nothing and is handed to `note`, as is one that no grammar here can keep.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from mlx_gptoss.harmony.constrain.schema.numbers import Bound, comparable
from mlx_gptoss.harmony.constrain.schema.value_sets import (
    BOOLEANS,
    NULL,
    Array,
    Number,
    Object,
    Text,
    ValueSet,
    all_of,
    decimal_range,
    is_empty,
    pattern_matches,
)

KINDS = ("null", "boolean", "number", "integer", "string", "array", "object")
FORMATS = (  # of strings that are enforced; others are remarks
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
UNENFORCEABLE = (  # keywords that no grammar here expresses, with no-op values
    ("not", (False,)),
    ("dependentRequired", ({},)),
    ("dependentSchemas", ({},)),
    ("dependencies", ({},)),
    ("contains", ()),
    ("uniqueItems", (False,)),
    ("unevaluatedProperties", (True, {})),
    ("unevaluatedItems", (True, {})),
    ("$dynamicRef", ()),
    ("$recursiveRef", ()),
)
LONGEST = 2**20  # characters of a string that are counted
MOST_ITEMS = 1000  # of an array, or fields of an object
SMALLEST = Decimal(0)


class Keywords:
    """Reads one schema; `note(keyword)` is told what is left out."""

    def __init__(self, schema: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self._schema = schema
        self._note = note

    def value_sets(self, *, forgiving: bool = False) -> list[ValueSet]:
        """The shapes of what these keywords allow; None is left of a contradiction.

        If `forgiving`, contradicting bounds are left out instead.
        """
        for key, idle in UNENFORCEABLE:
            given = self._schema.get(key)
            if given is not None and not any(
                given is one or given == one for one in idle
            ):
                self._note(key)
        if "if" in self._schema and self._schema.keys() & {"then", "else"}:
            self._note("if")
        found: list[ValueSet] = []
        for kind in self._types():
            found += self._of_type(kind, forgiving=forgiving)
        return found

    def _types(self) -> tuple[str, ...]:
        given = self._schema.get("type")
        every = tuple(kind for kind in KINDS if kind != "integer")
        if given is None and "type" not in self._schema:
            return every
        kinds = given if isinstance(given, list) else [given]
        known = [kind for kind in kinds if isinstance(kind, str) and kind in KINDS]
        if not known or len(known) < len(kinds):
            self._note("type")
            return every
        if "number" in known:
            known = [kind for kind in known if kind != "integer"]
        return tuple(dict.fromkeys(known))

    def _of_type(self, kind: str, *, forgiving: bool) -> list[ValueSet]:
        if kind == "null":
            return [NULL]
        if kind == "boolean":
            return [*BOOLEANS]
        if kind in ("number", "integer"):
            shape = self._number(integral=kind == "integer")
        else:
            shape = {"string": self._text, "array": self._array}.get(
                kind, self._object
            )()
        if not is_empty(shape):
            return [shape]
        if not forgiving:
            return []
        if isinstance(shape, Number):
            self._note("maximum")
            return [replace(shape, high=None)]
        self._note(BOUNDS[type(shape)][1])
        return [replace(shape, most=None)]

    def _number(self, *, integral: bool) -> Number:
        low = self._bound("minimum", "exclusiveMinimum", highest=True)
        high = self._bound("maximum", "exclusiveMaximum", highest=False)
        multiple = self._read("multipleOf", _is_finite)
        multiples = () if multiple is None or multiple <= 0 else (multiple,)
        return Number(low, high, integral, multiples)

    def _bound(self, name: str, exclusive: str, *, highest: bool) -> Bound | None:
        """One end of a range; draft 4 says with a bool whether it belongs to it."""
        side = 0 if highest else 1
        given = self._read(name, _is_finite)
        other = self._schema.get(exclusive)
        found = (
            []
            if given is None
            else [Bound(decimal_range(given)[side], other is not True)]
        )
        if not isinstance(other, bool):
            more = self._read(exclusive, _is_finite)
            found += [] if more is None else [Bound(decimal_range(more)[side], False)]
        if not found:
            return None
        pick = max if highest else min
        value = pick(bound.value for bound in found)
        inclusive = all(bound.inclusive for bound in found if bound.value == value)
        return self._nearer(Bound(value, inclusive), name, highest=highest)

    def _nearer(self, bound: Bound, name: str, *, highest: bool) -> Bound | None:
        """The bound, or one with fewer digits that lets more through, or none."""
        if comparable(bound.value):
            return bound
        if abs(bound.value) < Decimal(LARGEST):
            self._note(name)
        beyond = bound.value > 0 if highest else bound.value < 0
        return Bound(SMALLEST, False) if beyond else None

    def _text(self) -> Text:
        least, most = self._counts(*BOUNDS[Text], LONGEST)
        pattern = self._read("pattern", _is_text)
        name = self._schema.get("format")
        formats = (name,) if isinstance(name, str) and name in FORMATS else ()
        return Text(least, most, () if pattern is None else (pattern,), formats)

    def _array(self) -> Array:
        least, most = self._counts(*BOUNDS[Array], MOST_ITEMS)
        items, prefix = self._schema.get("items", True), ()
        if isinstance(items, list):  # before draft 2020
            prefix, items = items, self._schema.get("additionalItems", True)
        elif "prefixItems" in self._schema:
            prefix = self._read("prefixItems", _is_list) or ()
        return Array(least, most, tuple(prefix), items)

    def _object(self) -> Object:
        least, most = self._counts(*BOUNDS[Object], MOST_ITEMS)
        fields = self._read("properties", _is_mapping) or {}
        patterns = self._read("patternProperties", _is_mapping) or {}
        required = self._read("required", _is_list) or []
        if not all(isinstance(name, str) for name in required):
            self._note("required")
            required = []
        others = self._schema.get("additionalProperties", True)
        if not isinstance(others, bool | Mapping):
            self._note("additionalProperties")
            others = True
        fields = {
            name: all_of(
                one, *(s for key, s in patterns.items() if pattern_matches(key, name))
            )
            for name, one in fields.items()
        }
        return Object(
            fields, tuple(dict.fromkeys(required)), others, patterns, least, most
        )

    def _counts(self, least: str, most: str, limit: int) -> tuple[int, int | None]:
        low = self._read(least, _is_count) or 0
        high = self._read(most, _is_count)
        if low > limit:
            self._note(least)
            low = 0
        if high is not None and high > limit:
            if high < NEVER_REACHED:
                self._note(most)
            high = None
        return int(low), None if high is None else int(high)

    def _read(self, key: str, right: Callable[[Any], bool]) -> Any:
        """The value of a keyword; None if it is missing or makes no sense."""
        if key not in self._schema:
            return None
        value = self._schema[key]
        if right(value):
            return value
        self._note(key)
        return None


BOUNDS: Mapping[type, tuple[str, str]] = {
    Text: ("minLength", "maxLength"),
    Array: ("minItems", "maxItems"),
    Object: ("minProperties", "maxProperties"),
}
NEVER_REACHED = 2**31  # characters, items: a bound that binds nobody
LARGEST = "1e300"  # a bound beyond this one binds nobody


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_finite(value) and value >= 0 and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
