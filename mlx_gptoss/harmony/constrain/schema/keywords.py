"""Convert the type-specific keywords of one schema to value sets.

    Keywords(schema, note).value_sets()

Keywords that apply other schemas are handled in `unions.py`. A malformed keyword
(`type: "int"`, `required: null`, a bound that is text) is ignored and passed to `note`,
as is one that no grammar here expresses.
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
FORMATS = (  # of strings that are enforced; others are annotations
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
MAX_LENGTH = 2**20  # characters of a string that are counted
MAX_ITEMS = 1000  # of an array, or fields of an object


class Keywords:
    """Converts one schema; calls `note(keyword)` for each keyword it ignores."""

    def __init__(self, schema: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self._schema = schema
        self._note = note

    def value_sets(self, *, drop_contradictions: bool = False) -> list[ValueSet]:
        """Return the sets of values that these keywords allow.

        Contradicting bounds allow nothing, or are ignored with `drop_contradictions`.
        """
        for key, no_ops in UNENFORCEABLE:
            given = self._schema.get(key)
            if given is not None and not any(
                given is one or given == one for one in no_ops
            ):
                self._note(key)
        if "if" in self._schema and self._schema.keys() & {"then", "else"}:
            self._note("if")
        found: list[ValueSet] = []
        for kind in self._types():
            found += self._of_type(kind, drop_contradictions=drop_contradictions)
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

    def _of_type(self, kind: str, *, drop_contradictions: bool) -> list[ValueSet]:
        if kind == "null":
            return [NULL]
        if kind == "boolean":
            return [*BOOLEANS]
        if kind in ("number", "integer"):
            value_set = self._number(integral=kind == "integer")
        else:
            value_set = {"string": self._text, "array": self._array}.get(
                kind, self._object
            )()
        if not is_empty(value_set):
            return [value_set]
        if not drop_contradictions:
            return []
        if isinstance(value_set, Number):
            self._note("maximum")
            return [replace(value_set, high=None)]
        self._note(BOUNDS[type(value_set)][1])
        return [replace(value_set, most=None)]

    def _number(self, *, integral: bool) -> Number:
        low = self._bound("minimum", "exclusiveMinimum", highest=True)
        high = self._bound("maximum", "exclusiveMaximum", highest=False)
        multiple = self._get("multipleOf", _is_finite)
        multiples = () if multiple is None or multiple <= 0 else (multiple,)
        return Number(low, high, integral, multiples)

    def _bound(self, name: str, exclusive: str, *, highest: bool) -> Bound | None:
        """Return a bound of a range; in draft 4 a bool says whether it is exclusive."""
        side = 0 if highest else 1
        given = self._get(name, _is_finite)
        other = self._schema.get(exclusive)
        found = (
            []
            if given is None
            else [Bound(decimal_range(given)[side], other is not True)]
        )
        if not isinstance(other, bool):
            more = self._get(exclusive, _is_finite)
            found += [] if more is None else [Bound(decimal_range(more)[side], False)]
        if not found:
            return None
        pick = max if highest else min
        value = pick(bound.value for bound in found)
        inclusive = all(bound.inclusive for bound in found if bound.value == value)
        return self._comparable(Bound(value, inclusive), name, highest=highest)

    def _comparable(self, bound: Bound, name: str, *, highest: bool) -> Bound | None:
        """Return the bound, or a looser one with fewer digits, or none."""
        if comparable(bound.value):
            return bound
        if abs(bound.value) < Decimal(LARGEST):
            self._note(name)
        beyond = bound.value > 0 if highest else bound.value < 0
        return Bound(Decimal(0), False) if beyond else None

    def _text(self) -> Text:
        least, most = self._counts(*BOUNDS[Text], MAX_LENGTH)
        pattern = self._get("pattern", _is_text)
        name = self._schema.get("format")
        formats = (name,) if isinstance(name, str) and name in FORMATS else ()
        return Text(least, most, () if pattern is None else (pattern,), formats)

    def _array(self) -> Array:
        least, most = self._counts(*BOUNDS[Array], MAX_ITEMS)
        items, prefix = self._schema.get("items", True), ()
        if isinstance(items, list):  # before draft 2020-12
            prefix, items = items, self._schema.get("additionalItems", True)
        elif "prefixItems" in self._schema:
            prefix = self._get("prefixItems", _is_list) or ()
        return Array(least, most, tuple(prefix), items)

    def _object(self) -> Object:
        least, most = self._counts(*BOUNDS[Object], MAX_ITEMS)
        fields = self._get("properties", _is_mapping) or {}
        patterns = self._get("patternProperties", _is_mapping) or {}
        required = self._get("required", _is_list) or []
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
        low = self._get(least, _is_count) or 0
        high = self._get(most, _is_count)
        if low > limit:
            self._note(least)
            low = 0
        if high is not None and high > limit:
            if high < UNREACHABLE:
                self._note(most)
            high = None
        return int(low), None if high is None else int(high)

    def _get(self, key: str, is_valid: Callable[[Any], bool]) -> Any:
        """Return the value of a keyword; None if it is missing or malformed."""
        if key not in self._schema:
            return None
        value = self._schema[key]
        if is_valid(value):
            return value
        self._note(key)
        return None


BOUNDS: Mapping[type, tuple[str, str]] = {
    Text: ("minLength", "maxLength"),
    Array: ("minItems", "maxItems"),
    Object: ("minProperties", "maxProperties"),
}
UNREACHABLE = 2**31  # characters or items: a higher bound has no effect
LARGEST = "1e300"  # a bound beyond this has no effect


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
