"""Answer formats in the fields of every server."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from tests.support.answering_app import constant
from tests.support.spellings import (
    CHAT,
    MESSAGES,
    RESPONSES,
    SCHEMA,
    TURNS,
    posts,
    read,
)


@pytest.fixture(scope="module")
def fake() -> Iterator[Runtime]:
    """A runtime that says at once what it says to everybody."""
    with constant() as runtime:
        yield runtime


def format_of(path: str, **fields: Any) -> Any:
    """The format that is understood."""
    request = read(path, **fields)
    found = {
        CHAT: lambda: request.response_format,
        RESPONSES: lambda: request.text and request.text.format,
        MESSAGES: lambda: request.output_config and request.output_config.format,
    }
    return AnswerFormat.of(found[path]())


def said(reply: httpx2.Response) -> str:
    """The answer's text, on whichever API."""
    assert reply.status_code == 200, reply.text
    body = reply.json()
    if "output" in body:
        return body["output"][-1]["content"][0]["text"]
    if "content" in body:
        return body["content"][-1]["text"]
    [choice] = body["choices"]
    return choice.get("text") or choice["message"]["content"]


AS_TEXT = json.dumps(SCHEMA)
OF_SCHEMA = AnswerFormat.json_schema(SCHEMA)
BOUND: list[tuple[dict[str, Any], AnswerFormat | None]] = [
    ({"json_schema": SCHEMA}, OF_SCHEMA),
    ({"json_schema": AS_TEXT}, OF_SCHEMA),
    (
        {"json_schema": {"name": "who", "schema": SCHEMA}},
        AnswerFormat.json_schema(SCHEMA, name="who"),
    ),
    ({"format": SCHEMA}, OF_SCHEMA),
    ({"format": "json"}, AnswerFormat.json_object()),
    ({"format": ""}, None),
    ({"guided_json": SCHEMA}, OF_SCHEMA),
    ({"structured_outputs": {"json": AS_TEXT}}, OF_SCHEMA),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, OF_SCHEMA),
    ({"structured_outputs": {"json_object": True}}, AnswerFormat.json_object()),
    ({"guided_json_object": False}, None),
    ({"guided_regex": "x{3}"}, AnswerFormat.regex("x{3}")),
    ({"regex": "x{3}"}, AnswerFormat.regex("x{3}")),
    ({"structured_outputs": {"regex": "x{3}"}}, AnswerFormat.regex("x{3}")),
    ({"grammar": 'root ::= "x"'}, AnswerFormat.grammar('root ::= "x"')),
    ({"grammar": ""}, None),
    ({"ebnf": 'root ::= "x"'}, AnswerFormat.grammar('root ::= "x"')),
    ({"guided_grammar": 'start: "x"'}, AnswerFormat.grammar('start: "x"')),
    ({"structured_outputs": {"grammar": "x"}}, AnswerFormat.grammar("x")),
]


@pytest.mark.parametrize("path", TURNS)
def test_a_format_is_read_in_every_spelling(path: str) -> None:
    for fields, found in BOUND:
        assert format_of(path, **fields) == found, fields
        assert read(path, **fields).ignored_fields == [], fields


def test_a_choice_is_of_these_very_texts() -> None:
    texts = ["(.)", "é+\n ", "", "a|b"]
    for fields in ({"guided_choice": texts}, {"structured_outputs": {"choice": texts}}):
        found = format_of(CHAT, **fields)
        for text in texts:
            assert re.fullmatch(in_python(found.source), text)
        assert not re.fullmatch(in_python(found.source), "a")


def in_python(pattern: str) -> str:
    """A regular expression of Rust's as one of Python's."""
    return re.sub(r"\\x\{(\w+)\}", lambda one: rf"\U{int(one[1], 16):08x}", pattern)


def test_what_is_sent_binds_the_answer() -> None:
    calm = {"reasoning_effort": "none", "temperature": 0}
    asks = [
        (CHAT, {"grammar": 'root ::= "N" [o-p] "."'}),
        (RESPONSES, {"structured_outputs": {"regex": "No[.]"}}),
        (MESSAGES, {"guided_choice": ["No."]}),
    ]
    with load("demo") as runtime:
        replies = posts(runtime, [(path, one | calm) for path, one in asks])

    assert {said(one) for one in replies} <= {"No.", "Np."}


def test_the_apis_own_format_goes_first() -> None:
    own = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    fields = {"guided_regex": "x{3}", "response_format": own}

    assert format_of(CHAT, **fields) == AnswerFormat.json_schema(SCHEMA, name="n")
    assert read(CHAT, **fields).ignored_fields == ["guided_regex"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"guided_choice": []}, "`guided_choice`: give a list of strings"),
        ({"json_schema": "{"}, "`json_schema`: give a JSON schema"),
        ({"guided_json": 5}, "`guided_json`: give a JSON schema"),
        ({"grammar": {}}, "`grammar`: give a grammar, in GBNF or Lark"),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "`structured_outputs.structural_tag`: structural tags are not",
        ),
        ({"think": "hard"}, "`think`: give true or false"),
        ({"n_predict": "many"}, "`n_predict`: give a whole number"),
        ({"options": {"num_predict": 0}}, "`options.num_predict`: give a whole"),
        ({"thinking_budget": 2.5}, "`thinking_budget`: give a whole number"),
        (
            {"chat_template_kwargs": {"reasoning_effort": "extreme"}},
            "`chat_template_kwargs.reasoning_effort`: give none, minimal",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", TURNS)
def test_what_cannot_be_read_is_refused_by_the_name_it_came_under(
    path: str, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(ApiError, match=re.escape(why)):
        read(path, **fields)


def test_a_grammar_that_is_none_is_refused_in_one_line(fake: Runtime) -> None:
    asks = [
        ("one of three", "line 1: expected a rule"),
        ('root ::= "a', "line 1: cannot read"),
        ("root ::= x", "names `x`"),
    ]
    for reply, (_, why) in zip(
        posts(fake, [(CHAT, {"grammar": one}) for one, _ in asks]), asks, strict=True
    ):
        told = reply.json()["error"]["message"]
        assert (reply.status_code, why in told, "\n" in told) == (400, True, False)
