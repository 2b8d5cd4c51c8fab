"""Tools and answer formats of chat completions."""

import json
from typing import Any

import jsonschema
import pytest

from mlx_gptoss.engine.runtime import Runtime
from tests.support.chat_requests import CLOCK, OSLO, SUM, choice, post, refused, tool
from tests.support.fakes import answering
from tests.support.serving import WEATHER, question

REQUIRED = {"type": "function", "function": {"name": "get_weather"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [REQUIRED]},
}


@pytest.mark.parametrize("wanted", ["required", REQUIRED, ALLOWED])
def test_a_call_that_is_asked_for_is_made(demo: Runtime, wanted: Any) -> None:
    # Long enough for a city; a model that was forced to call finds no end by itself.
    city = {"type": "string", "maxLength": 12}
    short = tool({"properties": {"city": city}, "required": ["city"]})
    short["function"]["name"] = "get_weather"
    tools = [short] if wanted == "required" else [CLOCK, short]
    body = question("Hi!", tools=tools, tool_choice=wanted, parallel_tool_calls=False)
    got = choice(post(demo, body))

    [call] = got["message"]["tool_calls"]
    assert (call["function"]["name"], got["finish_reason"]) == (
        "get_weather",
        "tool_calls",
    )
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)


def test_no_call_is_made_where_none_is_wanted(demo: Runtime) -> None:
    got = choice(post(demo, question(OSLO, tools=[WEATHER], tool_choice="none")))

    assert "tool_calls" not in got["message"]
    assert got["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "function", "function": {"name": "nothing"}},
        {"type": "function"},
        {"type": "custom", "custom": {"name": "get_weather"}},
        "sometimes",
        {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": []}},
    ],
)
def test_a_choice_without_such_a_tool_is_refused(demo: Runtime, wanted: Any) -> None:
    error = refused(post(demo, question("Hi!", tools=[WEATHER], tool_choice=wanted)))

    assert "tool_choice" in error["message"]


def test_calls_come_in_parallel_and_each_result_finds_its_call() -> None:
    call = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}"
    said = (
        call.format("get_weather", '{"city":"Oslo"}')
        + "<|end|><|start|>assistant"
        + call.format("get_weather", '{"city":"Rome"}')
        + "<|call|>"
    )
    with answering(said) as runtime:
        got = choice(post(runtime, question(OSLO, tools=[WEATHER])))
    calls = got["message"]["tool_calls"]
    cities = [json.loads(one["function"]["arguments"])["city"] for one in calls]
    assert cities == ["Oslo", "Rome"]
    assert len({one["id"] for one in calls}) == 2


def test_a_call_that_is_cut_off_is_no_call(demo: Runtime) -> None:
    whole = choice(post(demo, question(OSLO, tools=[WEATHER])))
    tokens = post(demo, question(OSLO, tools=[WEATHER])).json()["usage"]
    cut = tokens["completion_tokens"] - 2
    body = question(OSLO, tools=[WEATHER], max_completion_tokens=cut)
    body["max_reasoning_tokens"] = cut
    got = choice(post(demo, body))

    assert whole["finish_reason"] == "tool_calls"
    assert got["finish_reason"] == "length"
    assert "tool_calls" not in got["message"]


def test_tools_of_one_name_are_refused(demo: Runtime) -> None:
    error = refused(post(demo, question("Hi!", tools=[WEATHER, WEATHER])))

    assert error["message"] == "two tools are named `get_weather`: rename one"


HARD = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}


def test_a_schema_that_cannot_be_kept_binds_as_far_as_it_can(demo: Runtime) -> None:
    assert choice(post(demo, question("Hi!", tools=[tool(HARD)], max_tokens=3)))
    error = refused(post(demo, question("Hi!", tools=[tool(HARD, strict=True)])))
    assert error["code"] == "invalid_schema"


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("strict", [True, False])
def test_an_answer_follows_its_schema_and_keeps_its_reasoning(
    demo: Runtime, strict: bool
) -> None:
    named = {"name": "person", "schema": PERSON, "strict": strict}
    told = {"type": "json_schema", "json_schema": named}
    got = choice(post(demo, question("My name is Maria.", response_format=told)))

    jsonschema.validate(json.loads(got["message"]["content"]), PERSON)
    assert got["message"]["reasoning"]
    assert got["finish_reason"] == "stop"


def test_an_answer_may_be_any_json_object(demo: Runtime) -> None:
    body = question("My name is Maria.", response_format={"type": "json_object"})
    got = choice(post(demo, body | {"max_tokens": 400}))

    if got["finish_reason"] == "stop":
        assert isinstance(json.loads(got["message"]["content"]), dict)
    assert got["message"]["content"].lstrip()[:1] == "{"


def test_text_is_a_format_too(demo: Runtime) -> None:
    body = question(SUM, response_format={"type": "text"})

    assert choice(post(demo, body))["message"]["content"] == "417 + 285 = 702"


@pytest.mark.parametrize(
    "given",
    [{"type": "yaml"}, {"type": "json_schema"}, {"type": "json_schema", "x": 1}],
)
def test_a_format_that_is_not_known_is_refused(demo: Runtime, given: Any) -> None:
    assert (
        "response"
        in refused(post(demo, question(SUM, response_format=given)))["message"]
    )
