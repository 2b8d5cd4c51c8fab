"""Random JSON schemas with values that may fit them; `jsonschema` is the judge."""

import json
from decimal import Decimal
from typing import Any

import jsonschema
from hypothesis import strategies as st

Pairs = st.SearchStrategy[tuple[Any, Any]]  # a schema and a value

NAMES = st.sampled_from(["a", "b", "c", "été", 'q"', "x/y", "", "$ref", "a b"])
TEXT = st.text('abA1 "\\/\n\u0001\x7fé€😀', max_size=6)
INTEGERS = st.one_of(
    st.integers(-20, 20), st.integers(-(2**70), 2**70), st.integers(2**63 - 2, 2**63)
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-5, 1.5, 1e16, 2.5e-7, 0.1, 100.0, 1e22, -1e-9]),
    st.floats(-200, 200),
    st.floats(allow_nan=False, allow_infinity=False),
)
NUMBERS = st.one_of(INTEGERS, FLOATS)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)
    ),
    max_leaves=5,
)
PATTERNS = {
    r"^[a-c]{1,3}$": st.text("abc", min_size=1, max_size=3),
    r"a.b": st.sampled_from(["a-b", "xa/by", 'a"b', "aéb"]),
    r"^\d+(\.\d+)?$": st.sampled_from(["1", "12.50"]),
    r"^$|^[^\s]+$": st.sampled_from(["", "x", "a\\b"]),
    r"^(?=.*[A-Z]).{2,}$": st.sampled_from(["aB", "ABC"]),
    r"^(.)\1$": st.sampled_from(["aa", "éé"]),
    r"\bword\b": st.sampled_from(["word", "a word."]),
}
FORMATS = {
    "date": ["2024-02-29", "1999-12-31"],
    "date-time": ["2024-01-01T10:00:00Z", "2024-01-01T10:00:00.123+02:00"],
    "time": ["10:00:00Z", "23:59:59+01:00"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "ipv4": ["127.0.0.1", "255.255.255.255"],
    "ipv6": ["::1", "2001:db8::8a2e:370:7334", "::ffff:192.0.2.128", "::"],
    "email": ["a.b+c@example.org", "x@y"],
    "hostname": ["example.org", "a-b.c"],
    "uri": ["https://example.org/a?b=c#d", "urn:isbn:0451450523", "mailto:a@b.c"],
    "duration": ["P1DT2H", "PT5M", "P3W"],
    "shoe-size": ["42"],
}


def some(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a few of these keywords."""
    return st.fixed_dictionaries({}, optional=options)


def typed(kind: Any, keywords: Any, values: Any) -> Pairs:
    schemas = keywords.map(lambda more: {"type": kind, **more})
    return st.tuples(schemas, values)


def patterned(pair: tuple[str, Any]) -> Pairs:
    return st.tuples(st.just({"type": "string", "pattern": pair[0]}), pair[1])


def formatted(pair: tuple[str, list[str]]) -> Pairs:
    schema = {"type": "string", "format": pair[0]}
    return st.tuples(st.just(schema), st.sampled_from(pair[1]))


LIMITS = some(
    minimum=NUMBERS,
    maximum=NUMBERS,
    exclusiveMinimum=st.sampled_from([0, -1.5, 0.0, 1e-6]),
    exclusiveMaximum=st.sampled_from([1, 1e6, 2**63]),
    multipleOf=st.sampled_from([1, 5, 0.5, 3, 1e-2]),
)
ONE_LIMIT = LIMITS.map(lambda given: dict(list(given.items())[:2]))
SIZES = some(minLength=st.integers(0, 3), maxLength=st.sampled_from([2, 6, 2**53]))
LEAVES: Pairs = st.one_of(
    st.tuples(st.sampled_from([{}, True]), VALUES),
    typed("number", ONE_LIMIT, NUMBERS),
    typed("integer", ONE_LIMIT, st.one_of(INTEGERS, INTEGERS.map(float))),
    typed("string", SIZES, TEXT),
    typed("boolean", st.just({}), st.booleans()),
    typed(["string", "null"], SIZES, st.one_of(st.none(), TEXT)),
    typed(["integer", "string", "null"], ONE_LIMIT, st.one_of(INTEGERS, TEXT)),
    st.sampled_from(sorted(PATTERNS.items(), key=str)).flatmap(patterned),
    st.sampled_from(sorted(FORMATS.items())).flatmap(formatted),
    VALUES.map(lambda value: ({"const": value}, value)),
    st.lists(VALUES, min_size=1, max_size=4).flatmap(
        lambda values: st.tuples(st.just({"enum": values}), st.sampled_from(values))
    ),
    st.tuples(LIMITS, NUMBERS),
)


@st.composite
def objects(draw: Any, inner: Pairs) -> tuple[Any, Any]:
    fields = draw(st.dictionaries(NAMES, inner, max_size=4))
    others, other = draw(st.one_of(inner, st.just((False, 0)), st.just((True, [1]))))
    schema = {
        "type": "object",
        "properties": {name: pair[0] for name, pair in fields.items()},
        **draw(
            some(
                required=st.just(sorted(fields)[:2]),
                minProperties=st.integers(0, 3),
                maxProperties=st.integers(1, 6),
                patternProperties=st.just({"^z": others}),
                propertyNames=st.just({"maxLength": 5}),
                additionalProperties=st.just(others),
                dependentRequired=st.just({"a": ["b"]}),
            )
        ),
    }
    kept = draw(st.sets(st.sampled_from(sorted(fields)))) if fields else set()
    needed = schema.get("required", [])
    value = {n: p[1] for n, p in fields.items() if n in kept or n in needed}
    if draw(st.booleans()):
        value[draw(st.sampled_from(["other", "z1", "naïve"]))] = other
    return schema, dict(draw(st.permutations(list(value.items()))))


@st.composite
def arrays(draw: Any, inner: Pairs) -> tuple[Any, Any]:
    items, item = draw(inner)
    first, head = draw(inner)
    counts = some(minItems=st.integers(0, 2), maxItems=st.integers(0, 3))
    schema: Any = {"type": "array", "items": items, **draw(counts)}
    value = [item] * draw(st.integers(0, 3))
    if draw(st.booleans()):
        schema["prefixItems"], value = [first], [head, *value]
    extra = {"uniqueItems": True, "contains": {}, "unevaluatedItems": True}
    return {**schema, **draw(some(**{k: st.just(v) for k, v in extra.items()}))}, value


@st.composite
def combined(draw: Any, inner: Pairs) -> tuple[Any, Any]:
    parts = draw(st.lists(inner, min_size=1, max_size=3))
    keyword = draw(st.sampled_from(["anyOf", "oneOf", "allOf", "$ref", "if", "not"]))
    schema, value = draw(st.sampled_from(parts))
    others = [part[0] for part in parts]
    if keyword == "allOf":
        return {"allOf": [schema, draw(st.sampled_from([True, *others]))]}, value
    if keyword == "$ref":
        return {"$ref": "#/$defs/one", "description": "it"}, draw(VALUES)
    if keyword == "if":
        return {"if": others[0], "then": schema, "else": others[-1]}, value
    if keyword == "not":
        return {**_mapping(schema), "not": {"const": "no"}}, value
    return {keyword: others}, value


def _mapping(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


PAIRS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(objects(inner), arrays(inner), combined(inner)),
    max_leaves=5,
)
ROOTED = st.tuples(PAIRS, LEAVES).map(
    lambda two: ({**_mapping(two[0][0]), "$defs": {"one": two[1][0]}}, two[0][1])
)


CHECKER = jsonschema.FormatChecker(())
for name, known in FORMATS.items():
    if name != "shoe-size":  # nobody knows that one
        CHECKER.checks(name)(lambda text, known=known: text in known)


def is_valid(schema: Any, value: Any) -> bool:
    validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
    return validator.is_valid(value)


def exactly(text: str) -> Any:
    """Parse JSON without rounding: what Python would round becomes infinite."""

    def number(digits: str) -> int | float:
        value, near = Decimal(digits), float(digits)
        if abs(value.adjusted()) < 2000 and value == int(value):
            return int(value)
        return near if Decimal(repr(near)) == value else float("inf")

    return json.loads(text, parse_float=number)


def has_rounded(value: Any) -> bool:
    """Whether it contains a float whose shortest decimal is not exact."""
    if isinstance(value, dict):
        return any(map(has_rounded, value.values()))
    if isinstance(value, list):
        return any(map(has_rounded, value))
    return isinstance(value, float) and abs(value) >= 2**53


def spellings(value: Any) -> list[str]:
    """Return a value as models write it: compact, spaced, indented."""
    return [
        json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, ensure_ascii=False, indent=2),
        json.dumps(value, ensure_ascii=False, indent="\t"),
    ]
