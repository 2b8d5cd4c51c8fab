"""An odd schema never fails a request: what cannot be enforced is named."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.chat.tools import Tool
from mlx_gptoss.chat.tools.tool_set import as_tool
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.grammar import LocalGrammars
from mlx_gptoss.harmony.constrain.tool_constraints import close_schema
from mlx_gptoss.harmony.parse.argument_errors import argument_errors, with_integers
from mlx_gptoss.harmony.render.typescript import typescript
from tests.harmony.test_any_order import takes
from tests.support.fakes import byte_tokenizer

GRAMMARS = LocalGrammars(byte_tokenizer())
LONG_AGO = (
    "^P(?!$)(\\d+Y)?(\\d+M)?(T(?=\\d)(\\d+H)?)?$"  # of the form of zod's durations
)
NOTHING_FREED = ""
# The schema of a field `n`, the unenforced keyword, and arguments that must fit.
FIELDS: dict[str, tuple[Any, str, str]] = {
    "look-ahead": (
        {"type": "string", "pattern": "^(?=.*[A-Z]).{2,}$"},
        "pattern",
        '"aB"',
    ),
    "look-ahead of zod": ({"type": "string", "pattern": LONG_AGO}, "pattern", '"P1Y"'),
    "back-reference": ({"type": "string", "pattern": "^(.)\\1$"}, "pattern", '"aa"'),
    "a pattern that is none": ({"type": "string", "pattern": "("}, "pattern", '"x"'),
    "type int": ({"type": "int"}, "type", "3"),
    "type bool": ({"type": "bool"}, "type", "true"),
    "type any": ({"type": "any"}, "type", '{"x":[1]}'),
    "type file": ({"type": "file", "maxLength": 9}, "type", '"a.txt"'),
    "a list of types, one odd": ({"type": ["string", "uuid"]}, "type", '"x"'),
    "required null": ({"type": "object", "required": None}, "required", "{}"),
    "required true": ({"required": True}, "required", '"x"'),
    "dangling ref": ({"$ref": "#/$defs/Gone"}, "$ref", '"x"'),
    "external ref": ({"$ref": "https://example.org/x.json"}, "$ref", "[1]"),
    "a ref to itself": ({"$ref": "#/properties/n"}, "$ref", "1"),
    "a ref that is none": ({"$ref": ["#"]}, "$ref", "1"),
    "enum that is no list": ({"type": "string", "enum": "a|b"}, "enum", '"a"'),
    "minLength as text": ({"type": "string", "minLength": "1"}, "minLength", '"x"'),
    "properties null": ({"type": "object", "properties": None}, "properties", "{}"),
    "items null": ({"type": "array", "items": None}, "schema", "[1]"),
    "a description": ("a number", "schema", "3"),
    "not": ({"type": "string", "not": {"const": "x"}}, "not", '"y"'),
    "if": ({"if": {"const": 1}, "then": {"minimum": 2}}, "if", "3"),
    "maximum NaN": ({"type": "number", "maximum": float("nan")}, "maximum", "3"),
    "least above most": (
        {"type": "integer", "minimum": 5, "maximum": 1},
        "maximum",
        "7",
    ),
    "numbers for texts": ({"type": "string", "enum": [1, 2]}, "enum", '"1"'),
    "texts for numbers": ({"type": "integer", "enum": ["1"]}, "enum", "1"),
    "numbers for texts, or null": (
        {"type": "string", "enum": [1], "nullable": True},
        "enum",
        '"1"',
    ),
    "a constant of another type": ({"type": "string", "const": 1}, "type", "1"),
    "int64": (
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        NOTHING_FREED,
        str(-(2**63)),
    ),
    "uint64": (
        {"type": "integer", "maximum": 2**64 - 1},
        NOTHING_FREED,
        str(2**64 - 1),
    ),
    "10^400": ({"type": "integer", "maximum": 10**400}, NOTHING_FREED, str(10**399)),
    "maxLength at 2^53": ({"maxLength": 2**53 - 1}, NOTHING_FREED, '"x"'),
    "maxItems at 2^53": ({"type": "array", "maxItems": 2**53}, NOTHING_FREED, "[1]"),
    "a format nobody knows": ({"format": "shoe-size"}, NOTHING_FREED, '"42"'),
    "a format that is none": ({"format": 3}, NOTHING_FREED, '"42"'),
    "nothing": ({}, NOTHING_FREED, "[null]"),
    "items of an old draft": ({"items": []}, NOTHING_FREED, "[1]"),
    "bounds of an old draft": (
        {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        NOTHING_FREED,
        "1e-9",
    ),
    "a null that is A": (
        {"anyOf": [{"type": "null", "enum": ["A"]}, {"enum": ["A", "B"]}]},
        NOTHING_FREED,
        '"B"',
    ),
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_what_cannot_be_kept_of_a_field_is_left_free(
    field: tuple[Any, str, str],
) -> None:
    schema, keyword, value = field
    other = {"type": "integer"}
    tool = {
        "type": "object",
        "properties": {"n": schema, "m": other},
        "required": ["n", "m"],
    }

    freed = GRAMMARS.compile("arguments", close_schema(tool), what="it").unenforced

    assert [key for _, key in freed][:1] == ([keyword] if keyword else [])
    assert takes(close_schema(tool), f'{{"m": 3, "n": {value}}}')
    assert "n" in typescript(tool)
    if keyword != "schema":  # the rest of the arguments is bound as before
        assert not takes(close_schema(tool), f'{{"m": "3", "n": {value}}}')
        assert not takes(close_schema(tool), '{"m": 3}')


TOOLS: dict[str, tuple[Any, str]] = {
    "empty": ({}, "{}"),
    "a string": ({"type": "string"}, '{"x":1}'),
    "type null": ({"type": None}, '{"x":1}'),
    "a union with null": ({"anyOf": [{"type": "null"}, {"type": "object"}]}, '{"x":1}'),
    "required within properties": (
        {"type": "object", "properties": {"coin": {}, "required": ["coin"]}},
        '{"coin":1}',
    ),
    "a required ghost": (
        {"type": "object", "properties": {"n": {}}, "required": ["ghost"]},
        '{"ghost":1}',
    ),
    "a forbidden ghost": (
        {"properties": {"n": {}}, "required": ["g"], "additionalProperties": False},
        '{"n":1}',
    ),
    "a field of `then`": (
        {"properties": {"n": {}}, "if": {}, "then": {"properties": {"m": {}}}},
        '{"m":1}',
    ),
    "an anchor": (
        {
            "$id": "https://x.example/s",
            "properties": {"t": {"$ref": "#a"}},
            "$defs": {"A": {"$anchor": "a", "type": "string"}},
        },
        '{"t":"x"}',
    ),
}


@pytest.mark.parametrize("case", TOOLS.values(), ids=TOOLS)
def test_odd_arguments_are_still_an_object(case: tuple[Any, str]) -> None:
    schema, arguments = case

    assert takes(close_schema(schema), arguments)
    assert not takes(close_schema(schema), "1") and not takes(
        close_schema(schema), '"x"'
    )
    assert typescript(schema)


def test_a_schema_without_an_end_says_nothing_in_its_depths() -> None:
    deep: Any = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}

    schema = {"type": "object", "properties": {"n": deep}}

    assert takes(schema, '{"n":[[]]}') and not takes(schema, '{"n":[["x"]]}')
    assert takes(schema, f'{{"n":{"[" * 70}"x"{"]" * 70}}}')
    found = GRAMMARS.compile("arguments", schema, what="it")
    assert found.unenforced == (("", "schema"),)


KEYS = (
    *("type", "properties", "required", "items", "anyOf", "oneOf", "allOf", "$ref"),
    *("const", "enum", "default", "description", "examples", "nullable", "a", "$defs"),
    *("minimum", "pattern", "minLength", "prefixItems", "patternProperties", "$id"),
    *("additionalProperties", "maxProperties", "multipleOf", "$anchor", "if", "then"),
)
STRAY = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from(["object", "int", "#", "#/$defs/a", "(?=a)", "[", 10**400]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schema=st.dictionaries(st.sampled_from(KEYS), STRAY), value=STRAY)
def test_nothing_that_is_json_breaks_a_tool(schema: Any, value: Any) -> None:
    assert isinstance(typescript(schema), str)
    list(argument_errors(value, schema))
    with_integers(value, schema)
    assert GRAMMARS.compile("arguments", close_schema(schema), what="it").grammar
    assert GRAMMARS.compile("json_schema", schema, what="it").grammar


FORMS: dict[str, tuple[Any, str]] = {
    "allOf": ({"allOf": [{"properties": {"a": {"type": "integer"}}}]}, '{"a": 1}'),
    "anyOf": (
        {"anyOf": [{"required": ["a"], "properties": {"a": {}}}, {"required": ["b"]}]},
        '{"b": 1}',
    ),
    "any object": ({"type": "object"}, '{"a": 1}'),
    "a required ghost": ({"properties": {"a": {}}, "required": ["b"]}, '{"b": 1}'),
    "patterns": (
        {"patternProperties": {"^x-": {}}, "additionalProperties": False},
        '{"x-a": 1}',
    ),
    "an enum of another type": (
        {"properties": {"a": {"type": "string", "enum": [1, 2]}}},
        '{"a": "1"}',
    ),
    "a constant of another type": (
        {"properties": {"a": {"type": "string", "const": 1}}},
        '{"a": 1}',
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_the_model_may_write_a_tool_takes(form: tuple[Any, str]) -> None:
    schema, arguments = form
    tool = Tool.from_schema("t", "", schema, function=lambda **given: given)

    assert takes(close_schema(schema), arguments)
    assert json.loads(tool.run(arguments)) == json.loads(arguments)


def test_a_field_is_what_all_of_its_patterns_say() -> None:
    schema = {"patternProperties": {"^x": {"type": "integer"}, "-n$": {"minimum": 3}}}
    tool = Tool.from_schema("t", "", schema, function=lambda **given: given)

    assert tool.run('{"x-n": "3"}') == 'Error: `x-n` must be integer, not "3"'


def test_parameters_that_are_no_schema_are_named() -> None:
    with pytest.raises(
        PromptError, match="`parameters` of tool `t` are not a JSON schema"
    ):
        as_tool({"name": "t", "parameters": "a string"})


def test_a_union_of_many_kinds_of_things_is_kept() -> None:
    kinds = [
        {
            "type": "object",
            "properties": {"type": {"const": f"k{n}"}, "v": {"type": "integer"}},
            "required": ["type", "v"],
        }
        for n in range(60)
    ]
    schema = {"type": "object", "properties": {"block": {"oneOf": kinds}}}

    assert not GRAMMARS.compile("arguments", schema, what="it", strict=True).unenforced
    assert takes(schema, '{"block": {"v": 3, "type": "k59"}}')
    assert not takes(schema, '{"block": {"v": 3, "type": "k60"}}')
    doubled = {"type": "object", "properties": {"block": {"oneOf": kinds + kinds[:1]}}}
    freed = GRAMMARS.compile("arguments", doubled, what="it").unenforced
    assert freed == (("block", "oneOf"),)


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_a_list_of_many_constants_is_kept(keyword: str) -> None:
    zones = [{"const": f"Zone/{n}", "title": f"{n}"} for n in range(2100)]
    schema = {"type": "object", "properties": {"zone": {keyword: zones}}}

    assert not GRAMMARS.compile("arguments", schema, what="it").unenforced
    assert takes(schema, '{"zone": "Zone/2099"}')
    assert not takes(schema, '{"zone": "Zone/2100"}')
