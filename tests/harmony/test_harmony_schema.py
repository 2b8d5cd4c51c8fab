"""TypeScript for schemas that the library writes as `any`, and the form of numbers."""

from typing import Any

import pytest

from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.render.plain_schema import MAX_WRITTEN
from mlx_gptoss.harmony.render.typescript import typescript


def field(schema: dict[str, Any], **root: Any) -> str:
    """Return the type of one required field `x`."""
    text = typescript(
        {"type": "object", "properties": {"x": schema}, "required": ["x"], **root}
    )
    return text.removeprefix("{\nx: ").removesuffix(",\n}")


POINT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
}
# What differs from openai-harmony on purpose: (schema, root keys, ours). The
# library writes `any` for each (for `const` beside a type: the type).
INTENDED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "anyOf with null, as pydantic writes Optional": (
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {},
        "string | null",
    ),
    "anyOf of kinds, doubles once": (
        {"anyOf": [{"type": "integer"}, {"type": "boolean"}, {"type": "integer"}]},
        {},
        "number | boolean",
    ),
    "anyOf of enums and consts": (
        {"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"const": 3}]},
        {},
        '"a" | "b" | 3',
    ),
    "array of anyOf": (
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        {},
        "(string | null)[]",
    ),
    "const": ({"const": "on"}, {}, '"on"'),
    "const beside a type": ({"type": "string", "const": "on"}, {}, '"on"'),
    "$ref": (
        {"$ref": "#/$defs/P"},
        {"$defs": {"P": POINT}},
        "{\n    a: number,\n    }",
    ),
    "$ref to definitions, escaped": (
        {"$ref": "#/definitions/a~1b"},
        {"definitions": {"a/b": {"type": "string"}}},
        "string",
    ),
    "$ref to itself ends in any": (
        {"$ref": "#/$defs/T"},
        {
            "$defs": {
                "T": {"type": "object", "properties": {"t": {"$ref": "#/$defs/T"}}}
            }
        },
        "{\n    t?: any,\n    }",
    ),
    "$ref to nothing": ({"$ref": "#/$defs/Q"}, {}, "any"),
    "allOf of one": (
        {"allOf": [{"$ref": "#/$defs/K"}]},
        {"$defs": {"K": {"type": "string", "enum": ["k"]}}},
        '"k"',
    ),
    "allOf of objects": (
        {"allOf": [POINT, {"type": "object", "properties": {"b": {"type": "string"}}}]},
        {},
        "{\n    a: number,\n    b?: string,\n    }",
    ),
}


@pytest.mark.parametrize("case", INTENDED)
def test_what_the_library_flattens_to_any_is_resolved(case: str) -> None:
    schema, root, expected = INTENDED[case]

    assert field(schema, **root) == expected


def test_a_default_and_a_title_stay_beside_a_union() -> None:
    schema = {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
        "title": "City",
    }

    assert typescript({"type": "object", "properties": {"city": schema}}) == (
        "{\n// City\n//\ncity?: string | null, // default: null\n}"
    )


def test_a_schema_nested_without_end_is_any_at_some_depth() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}

    assert typescript(schema).startswith("any[][]")


def test_types_that_refer_to_each_other_are_written_once() -> None:
    """Written out in every order, six of them would take five million characters."""
    names = [f"N{n}" for n in range(9)]
    any_of_them = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    types = {
        name: {
            "type": "object",
            "properties": {"kind": {"const": name}, "left": any_of_them},
        }
        for name in names
    }

    text = field(any_of_them, **{"$defs": types})

    assert text.count("kind?: ") == len(names)
    assert text.count("left?: any,") == len(names)


def test_what_references_bring_is_bounded() -> None:
    """Each of twenty levels references the next twice: a million leaves."""
    types: dict[str, Any] = {
        f"D{n}": {
            "type": "object",
            "properties": {
                side: {"$ref": f"#/$defs/D{n + 1}"} for side in ("left", "right")
            },
        }
        for n in range(20)
    }
    types["D20"] = {"type": "string"}

    text = field({"$ref": "#/$defs/D0"}, **{"$defs": types})

    assert text.count("?: any,") + text.count("?: string,") < MAX_WRITTEN


JSON = {
    "null": None,
    "true": True,
    "0.00001": 1e-05,
    "-0.000012": -1.2e-05,
    "1e-6": 1e-06,
    "1e+16": 1e16,
    "1.5e-7": 1.5e-07,
    "123456789012345.5": 123456789012345.5,
    "18446744073709551615": 2**64 - 1,
    "1.8446744073709552e+19": 2**64,
    '{"é":[1,"\\n"]}': {"é": (1, "\n")},
}


@pytest.mark.parametrize("expected", JSON)
def test_json_is_compact_with_real_letters_and_short_numbers(expected: str) -> None:
    assert json_text(JSON[expected]) == expected
