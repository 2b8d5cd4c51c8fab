"""Fields of arguments occur in any order; nothing that the schema forbids does."""

from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.harmony.constrain.grammar import GrammarKind, LocalGrammars
from mlx_gptoss.harmony.constrain.schema.objects import MAX_FIELDS
from tests.support.fakes import byte_tokenizer

BYTES = byte_tokenizer()
GRAMMARS = LocalGrammars(BYTES)
OPTIONS = {"whitespace_flexible": True}
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer", "minimum": 1},
    },
    "required": ["city"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"$ref": "#/$defs/size"},
        "left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "left"],
    "additionalProperties": False,
    "$defs": {"size": {"allOf": [{"type": "integer"}, {"minimum": 0}]}},
}
FILES = {
    "type": "object",
    "properties": {
        "files": {
            "type": "array",
            "items": {"$ref": "#/definitions/file"},
            "minItems": 1,
            "maxItems": 2,
        },
        "why": {"type": "string", "title": "Why", "description": "In words"},
        "who": {
            "type": ["object", "null"],
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
    "definitions": {
        "file": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "mode": {"type": "integer"}},
            "required": ["path"],
        }
    },
}
ODD = {
    "type": "object",
    "properties": {
        'a "b"\\': {"type": "boolean"},
        "été 🌍": {"type": "boolean"},
        "": {"type": "boolean"},
        "\n\u0001": {"type": "boolean"},
    },
    "additionalProperties": {"type": "number"},
}


def takes(
    schema: Any,
    text: str,
    kind: GrammarKind = "arguments",
    grammars: LocalGrammars = GRAMMARS,
    tokenizer: Tokenizer = BYTES,
) -> bool:
    """Whether the grammar accepts `text`, token by token, up to its end."""
    matcher = grammars.matcher(grammars.compile(kind, schema, what="a schema"))
    for token in tokenizer.encode(text):
        if not matcher.token_mask(tokenizer.vocab_size)[token]:
            return False
        matcher.accept(token)
    return matcher.is_accepting


RIGHT = [
    (WEATHER, '{"days":3,"city":"Oslo"}'),
    (WEATHER, '{ "unit" : "C" ,\n  "days": 12 , "city": "Oslo" }'),
    (TREE, '{"left":{"left":null,"name":"b"},"name":"a","size":3}'),
    (TREE, '{"right":{"left":null,"size":0,"name":"q"},"left":null,"name":"a"}'),
    (FILES, '{"why":"x","files":[{"mode":1,"path":"a"},{"path":"b","by":[]}]}'),
    (FILES, "{}"),
    (FILES, '{"who":{"age":3,"name":"a"},"why":"x"}'),
    (FILES, '{"who":null}'),
    (ODD, '{"x":1.5,"été 🌍":true,"\\n\\u0001":true,"":false,"a \\"b\\"\\\\":true}'),
]
WRONG = [
    (WEATHER, '{"days":3}'),
    (WEATHER, '{"days":3,"city":"Oslo","days":4}'),
    (WEATHER, '{"days":0,"city":"Oslo"}'),
    (WEATHER, '{"city":"Oslo","wind":1}'),
    (WEATHER, '{"city":"Oslo",}'),
    (WEATHER, '{,"city":"Oslo"}'),
    (WEATHER, ' {"city":"Oslo"}'),
    (WEATHER, '{"city":"Oslo"} '),
    (TREE, '{"left":null,"name":"a","size":-1}'),
    (TREE, '{"left":{"name":"b"},"name":"a"}'),
    (FILES, '{"files":[]}'),
    (FILES, '{"who":{"age":3}}'),
    (FILES, '{"who":3}'),
    (FILES, '{"files":[{"path":"a"},{"path":"b"},{"path":"c"}]}'),
    (FILES, '{"files":[{"path":"a","path":"b"}]}'),
    (ODD, '{"":1}'),
    (ODD, '{"x":true}'),
    (ODD, '{"\\u0078":1}'),  # a name is written in one way, so that none comes twice
]


@pytest.mark.parametrize(("schema", "text"), RIGHT)
def test_fields_come_in_any_order(schema: Any, text: str) -> None:
    assert takes(schema, text)


@pytest.mark.parametrize(("schema", "text"), WRONG)
def test_and_nothing_else_comes(schema: Any, text: str) -> None:
    assert not takes(schema, text)


def test_it_is_so_with_the_tokens_of_gpt_oss(o200k_folder: Path) -> None:
    """A vocabulary with tokens that span a value's end, a comma and the next name."""
    tokenizer = Tokenizer.open(o200k_folder)
    grammars = LocalGrammars(tokenizer)

    right = [takes(*pair, "arguments", grammars, tokenizer) for pair in RIGHT]
    wrong = [takes(*pair, "arguments", grammars, tokenizer) for pair in WRONG]

    assert all(right) and not any(wrong)


def test_an_answer_keeps_the_order_of_its_schema() -> None:
    ordered = '{"city":"Oslo","days":3}'

    assert takes(WEATHER, ordered, "json_schema")
    assert not takes(WEATHER, '{"days":3,"city":"Oslo"}', "json_schema")


def test_what_cannot_be_kept_is_passed_over_in_any_order() -> None:
    odd = {"type": "integer", "not": {"const": 1}}
    schema = {**WEATHER, "properties": {"city": odd, "days": odd}}

    assert takes(schema, '{"days":1,"city":2}')
    assert not takes(schema, '{"days":"x","city":2}')


BOOLEAN = {"type": "boolean"}
TEXTS = {"type": "object", "properties": {"q": {"type": "string"}}}


@pytest.mark.parametrize("most", [0, 1, 2])
@pytest.mark.parametrize("least", [0, 1])
def test_arrays_of_few_items_change_no_order(least: int, most: int) -> None:
    """The library rejects `{0,0}`, which used to enforce the order of the schema."""
    items = {"type": "array", "items": TEXTS, "minItems": least, "maxItems": most}
    declared = {**WEATHER, "properties": {"a": items, "b": BOOLEAN}, "required": ["b"]}
    others = {
        "type": "object",
        "properties": {"b": BOOLEAN},
        "required": ["b"],
        "additionalProperties": items,
    }
    for schema in (declared, others):
        for count in range(4):
            value = ",".join(['{"q":""}'] * count)
            fits = least <= count <= most
            assert takes(schema, f'{{"a":[{value}],"b":true}}') == fits
            assert takes(schema, f'{{"b":true,"a":[{value}]}}') == fits


MANY = {f"f{n}": {} for n in range(MAX_FIELDS + 1)}
IN_ANY_ORDER = [
    ({**WEATHER, "minProperties": 2}, '{"days":3,"city":"Oslo"}', '{"city":"Oslo"}'),
    ({**WEATHER, "maxProperties": 1}, '{"city":"a"}', '{"days":3,"city":"Oslo"}'),
    ({**TEXTS, "minProperties": 1}, '{"x":1,"q":""}', "{}"),
    ({**TEXTS, "required": ["ghost"]}, '{"ghost":[1],"q":""}', '{"q":""}'),
    ({**TEXTS, "properties": {"a": {}, "b": False}}, '{"c":1,"a":2}', '{"b":1}'),
    (
        {"$ref": "#/$defs/a%20b", "$defs": {"a b": WEATHER}},
        '{"days":3,"city":""}',
        "{}",
    ),
    (
        {"allOf": [WEATHER, {"properties": {"days": {"maximum": 9}}}]},
        '{"days":3,"city":"a"}',
        '{"days":12,"city":"a"}',
    ),
    (
        {"type": "object", "maxProperties": 2, "additionalProperties": BOOLEAN},
        '{"a":true,"b":false}',
        '{"a":true,"b":false,"c":true}',
    ),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), IN_ANY_ORDER)
def test_objects_of_other_keywords_come_in_any_order_too(
    schema: Any, right: str, wrong: str
) -> None:
    assert takes(schema, right)
    assert not takes(schema, wrong)


def test_more_fields_than_can_be_remembered_keep_the_order_of_the_schema() -> None:
    schema = {"type": "object", "properties": MANY, "required": ["f7"]}

    assert takes(schema, '{"f0":1,"f7":2,"f64":3,"more":4}')
    assert not takes(schema, '{"f7":1,"f0":2}')
    assert not takes(schema, '{"f0":1}')


def test_references_to_each_other_are_followed_once() -> None:
    """Following every path would never end."""
    names = [f"n{n}" for n in range(40)]
    other = [{"$ref": f"#/$defs/{name}"} for name in names]
    schema = {**other[0], "$defs": {name: {"anyOf": other} for name in names}}

    found = GRAMMARS.compile("arguments", schema, what="a schema")

    assert found.unenforced == (("", "schema"),)


def test_a_grammar_does_not_grow_without_end() -> None:
    large = {
        "type": "object",
        "properties": {f"f{n}": {"const": n} for n in range(9000)},
    }

    found = GRAMMARS.compile("arguments", large, what="a schema")

    assert found.unenforced == (("", "schema"),)
