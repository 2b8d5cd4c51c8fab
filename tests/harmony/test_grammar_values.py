"""A grammar accepts every value that its schema allows, whatever the schema is."""

import json
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.grammar import GrammarKind
from tests.harmony.test_any_order import GRAMMARS, takes
from tests.harmony.test_grammar import drawn
from tests.support.schema_values import (
    ROOTED,
    exactly,
    has_rounded,
    is_valid,
    spellings,
)

NOISY = [HealthCheck.too_slow, HealthCheck.filter_too_much]
KINDS: tuple[GrammarKind, ...] = ("arguments", "json_schema")


def check(schema: Any, value: Any) -> None:
    assume(is_valid(schema, value))
    for text in spellings(value):
        assert takes(schema, text), text


@settings(max_examples=60, deadline=None, suppress_health_check=NOISY)
@given(pair=ROOTED)
def test_every_valid_value_can_be_written(pair: tuple[Any, Any]) -> None:
    check(*pair)


@pytest.mark.soak
@settings(max_examples=5000, deadline=None, suppress_health_check=NOISY)
@given(pair=ROOTED)
def test_every_valid_value_can_be_written_at_length(pair: tuple[Any, Any]) -> None:
    check(*pair)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=NOISY)
@given(pair=ROOTED, seed=st.integers(0, 2**16))
def test_what_is_begun_can_be_ended_and_strict_is_valid(
    kind: GrammarKind, pair: tuple[Any, Any], seed: int
) -> None:
    schema, _ = pair
    text = drawn(schema, seed, kind)
    assert text is None or json.dumps(json.loads(text))
    try:
        strict = drawn(schema, seed, kind, strict=True)
    except SchemaError as error:
        assert "\n" not in str(error)
        return
    if strict is None:
        return
    value = exactly(strict)
    if not has_rounded(schema) and "Infinity" not in json.dumps(value):
        jsonschema.Draft202012Validator(schema).validate(value)


BOUNDS = st.one_of(
    st.integers(-(2**64), 2**64),
    st.integers(-30, 30),
    st.floats(-50, 50),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 0.1, 1e-7, 99.95, 1e22, -0.0, 2**63 - 1, 1.5e300]),
)


def written(value: int | float) -> list[str]:
    """Write a number in plain and in scientific notation, as people and programs do."""
    exact = Decimal(repr(value))
    mantissa = exact.scaleb(-exact.adjusted())
    if len(exact.as_tuple().digits) > 17:  # no program writes these with an exponent
        return [json.dumps(value)]
    near = abs(exact.adjusted()) < 40
    return [
        json.dumps(value),
        f"{mantissa:f}e{exact.adjusted()}",
        f"{mantissa:f}0E{exact.adjusted():+03d}" if "." in f"{mantissa:f}" else "0",
        f"{exact:f}" if near else "0",
    ][: 4 if exact else 1]


@settings(max_examples=60, deadline=None, suppress_health_check=NOISY)
@given(
    low=BOUNDS, high=BOUNDS, value=BOUNDS, kind=st.sampled_from(["number", "integer"])
)
def test_a_bound_is_kept_in_every_notation(
    low: Any, high: Any, value: Any, kind: str
) -> None:
    schema = {"type": kind, "minimum": low, "exclusiveMaximum": high}
    assume(low < high)
    freed = GRAMMARS.compile("arguments", schema, what="it").unenforced
    is_kept = not freed and max(abs(low), abs(high)) < 2**53  # floats are rounded there
    for text in written(value):
        found = exactly(text)
        exact = Decimal(text)
        fits = is_valid(schema, found)
        near = abs(exact) < 10**40 and (not exact or abs(exact) > Decimal("1e-40"))
        if fits:
            assert takes(schema, text)
        elif near and is_kept:
            assert not takes(schema, text)


RIGHT = [
    ({"type": "number", "exclusiveMinimum": 0}, ["1e-5", "1E-05", "5e-324", "12e-3"]),
    ({"type": "number", "minimum": 0}, ["-0", "-0.0", "0e9", "1e400"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["1.0", "1e0", "0.5", "99.9e-2"]),
    ({"type": "integer"}, [str(2**63), str(-(10**50)), "1e3", "2.50e2", "3.0", "-0"]),
    ({"type": "integer", "minimum": 1.5, "maximum": 3.5}, ["2", "3", "3.0", "2e0"]),
    ({"type": "integer", "maximum": 2**63}, [str(2**63), str(-(2**70))]),
    ({"type": "number", "multipleOf": 0.01}, ["1.25", "-12", "1e2"]),
    ({"const": 1e-7}, ["1e-7", "1e-07", "0.0000001"]),
    ({"enum": [1, "1", 1e300]}, ["1", "1.0", '"1"', "1e+300"]),
    ({"type": "string", "nullable": True}, ["null", '"x"']),
    ({"enum": ["a"], "nullable": True}, ["null", '"a"']),
    (
        {"$ref": "#/$defs/s", "nullable": True, "$defs": {"s": {"const": 1}}},
        ["null", "1"],
    ),
    ({"anyOf": [{"type": "boolean"}], "nullable": True}, ["null", "true"]),
    ({"type": ["integer", "null"], "minimum": 2}, ["null", "3"]),
    ({"type": "string"}, ['"\\u0041\\/\\ud83d\\ude00"', '"\x7f"', '"é"', '"\\u2011"']),
    ({"type": "string", "maxLength": 1}, ['"\\ud83d\\ude00"', '"😀"', '"\\n"']),
    ({"const": "é/😀\n"}, ['"é/😀\\n"', '"\\u00E9\\/\\uD83D\\ude00\\u000a"']),
    ({"const": {"a": [1, None]}}, ['{"a": [1.0, null]}']),
    ({"type": "string", "pattern": 'a"b'}, ['"xa\\"b"']),
    ({"type": "string", "pattern": "^a/b$"}, ['"a/b"']),
    ({"type": "string", "format": "ipv6"}, ['"::ffff:192.0.2.1"', '"::1"']),
    ({"type": "object"}, ['{"été": 1}', '{"\\u00e9": 1}', '{"a": {"b": [{}]}}', "{}"]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("schema", "texts"), RIGHT)
def test_what_a_schema_allows_can_be_written(
    schema: Any, texts: list[str], kind: GrammarKind
) -> None:
    assert [text for text in texts if not takes(schema, text, kind)] == []


WRONG = [
    ({"type": "number", "exclusiveMinimum": 0}, ["0", "-0", "0.0e5", "-1e-5", "0e0"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["1.01", "1e1", "11e-1", "-1e-9"]),
    ({"type": "integer"}, ["1.5", "1.55e1", "1e-1", "01", "+1"]),
    ({"type": "integer", "minimum": 1.5, "maximum": 3.5}, ["1", "4", "4.0", "1e1"]),
    ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, ["0", "-1"]),
    ({"type": "array", "items": [{"const": 1}], "additionalItems": False}, ["[1,1]"]),
    ({"type": "string", "nullable": False}, ["null"]),
    ({"type": "string", "maxLength": 1}, ['"ab"', '"\\u0041b"']),
    ({"enum": [1]}, ["true", "1.1", "10"]),
    ({"const": False}, ["0", "true"]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("schema", "texts"), WRONG)
def test_and_what_it_does_not_allow_cannot(
    schema: Any, texts: list[str], kind: GrammarKind
) -> None:
    assert [text for text in texts if takes(schema, text, kind)] == []
    GRAMMARS.compile(kind, schema, what="it", strict=True)


STRICT = [  # kept by the library's grammars where ours let more through
    ({"type": "integer", "multipleOf": 5}, "10", "7"),
    (
        {
            "type": "object",
            "patternProperties": {"^a": {"type": "integer"}, "^b": {"type": "null"}},
            "additionalProperties": False,
        },
        '{"a1":3,"b1":null}',
        '{"a1":null}',
    ),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), STRICT)
def test_strict_is_to_the_letter(schema: Any, right: str, wrong: str) -> None:
    found = GRAMMARS.compile("arguments", schema, what="it", strict=True)
    matcher = GRAMMARS.matcher(found)
    for byte in right.encode():
        assert matcher.token_mask(256)[byte]
        matcher.accept(byte)
    assert matcher.is_accepting

    matcher = GRAMMARS.matcher(found)
    legal = True
    for byte in wrong.encode():
        legal = legal and bool(matcher.token_mask(256)[byte])
        if legal:
            matcher.accept(byte)
    assert not (legal and matcher.is_accepting)


ARRAY = {"type": "array", "items": {"type": "object", "additionalProperties": True}}
SPACED = {"type": "object", "properties": {"a": {"type": "integer"}, "b": ARRAY}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strict", [False, True])
def test_white_space_is_a_separator_and_an_indent(
    kind: GrammarKind, strict: bool
) -> None:
    value = {"a": 1, "b": [{"c": [1, {"d": "e"}]}, {}]}
    right = [*spellings(value), json.dumps(value, indent=8), '{ "a" : 1 , "b" : [ ] }']
    right += [text.replace("\n", "\r\n") for text in right]
    long = " " * 200
    wrong = [f"{{{long}}}", f'{{"a":{long}1}}', f'{{"a":1{long}}}', f'{{"a"{long}:1}}']
    wrong += [text.replace(" ", "\n") for text in wrong]
    wrong += ['{"a":  1}', '{"b": [  ]}', '{"b":[{},\n\n\n{}]}', '{"b":[{"c":   1}]}']

    def fits(text: str) -> bool:
        found = GRAMMARS.compile(kind, SPACED, what="it", strict=strict)
        matcher = GRAMMARS.matcher(found)
        for byte in text.encode():
            if not matcher.token_mask(256)[byte]:
                return False
            matcher.accept(byte)
        return matcher.is_accepting

    assert [text for text in right if not fits(text)] == []
    assert [text for text in wrong if fits(text)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_endless_run_of_space_ends_everywhere(kind: GrammarKind) -> None:
    """White space is bounded wherever it occurs."""
    text = '{"a": 1, "b": [{"c": "d"}, {"e": [true]}]}'
    compiled = GRAMMARS.compile(kind, SPACED, what="it")
    for end in range(1, len(text)):
        if text[:end].count('"') % 2:  # within a string blanks are text
            continue
        matcher = GRAMMARS.matcher(compiled)
        for byte in text[:end].encode():
            matcher.accept(byte)
        for blank in b"\n ":
            count = 0
            while matcher.token_mask(256)[blank] and count < 500:
                matcher.accept(blank)
                count += 1
            assert count < 200, text[:end]
