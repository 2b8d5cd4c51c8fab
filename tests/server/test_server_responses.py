"""`/v1/responses`: output items, tools, formats, counts."""

import json
import re
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support import sse
from tests.support.answering_app import constant
from tests.support.fakes import answering
from tests.support.response_events import rebuilt
from tests.support.response_requests import (
    CUSTOM,
    FUNCTION,
    OSLO,
    PATH,
    SUM,
    Client,
    body,
    create,
    run,
)

CHANGES = re.compile(r'"(id|item_id|call_id|created_at|completed_at)":"?\w+"?')


async def stream(client: Client, asked: Any, **fields: Any) -> list[dict[str, Any]]:
    reply = await client.post(PATH, json=body(asked, stream=True, **fields))
    assert reply.status_code == 200, reply.text
    return events(reply.text)


def events(text: str) -> list[dict[str, Any]]:
    return sse.named(text, done=True)


def same(one: Any) -> Any:
    """A response without what differs each time."""
    text = json.dumps(one, separators=(",", ":"))
    found = json.loads(CHANGES.sub(r'"\1":0', text))
    found["usage"]["input_tokens_details"] = {}  # the second finds the first's prompt
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"asked": OSLO},
        {"asked": OSLO, "tools": [FUNCTION]},
        {"asked": OSLO, "max_output_tokens": 9},
        {"asked": OSLO, "include": ["reasoning.encrypted_content"]},
        {"asked": OSLO, "reasoning": {"summary": "auto"}},
        {"asked": OSLO, "top_logprobs": 2},
        {"asked": OSLO, "tools": [CUSTOM], "max_output_tokens": 60},
        {
            "asked": OSLO,
            "max_output_tokens": 60,
            "text": {"format": {"type": "json_object"}},
        },
    ],
    ids=["text", "call", "cut", "sealed", "summary", "logprobs", "custom", "json"],
)
def test_a_stream_says_what_the_whole_response_says(
    demo: Runtime, settings: ServerSettings, fields: dict[str, Any]
) -> None:
    async def work(client: Client) -> Any:
        return await create(client, **fields), await stream(client, **fields)

    whole, events = run(demo, settings, work)
    assert same(rebuilt(events)) == same(whole)


def test_a_response_has_every_field_of_the_api(settings: ServerSettings) -> None:
    bare = {"type": "function", "name": "now"}
    strict = {**FUNCTION, "name": "other", "strict": True}
    tools = [bare, strict, CUSTOM]
    form = {"type": "json_schema", "name": "any", "schema": {"type": "string"}}
    fields: dict[str, Any] = {"tools": tools, "text": {"format": form}}
    with constant() as runtime:
        found = run(runtime, settings, lambda client: create(client, "", **fields))

    assert (found["presence_penalty"], found["frequency_penalty"]) == (0, 0)
    nothing = {"description": None, "parameters": None, "strict": False}
    assert found["tools"] == [bare | nothing, strict, CUSTOM]
    more = {"description": None, "strict": False}
    assert found["text"] == {"format": form | more}
    assert "encrypted_content" not in found["output"][0]


@pytest.mark.parametrize(
    ("reasoning", "told"),
    [
        ({"summary": "auto"}, True),
        ({"summary": "concise", "effort": "low"}, True),
        ({"generate_summary": "detailed"}, True),
        ({"summary": None}, False),
        ({"summary": "none"}, False),
        ({"effort": "low"}, False),
        (None, False),
    ],
)
def test_a_summary_that_is_asked_for_is_there(
    settings: ServerSettings, reasoning: Any, told: bool
) -> None:
    with constant() as runtime:
        found = run(
            runtime, settings, lambda client: create(client, "", reasoning=reasoning)
        )

    thought = found["output"][0]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    expected = [{"type": "summary_text", "text": "Hm."}] if told else []
    assert thought["summary"] == expected


def test_a_sum_is_answered(demo: Runtime, settings: ServerSettings) -> None:
    found = run(demo, settings, lambda client: create(client, SUM))

    thought, answer = found["output"]
    assert thought["content"][0]["text"].startswith("I work in columns.")
    assert answer["content"][0]["text"] == "417 + 285 = 702"
    assert (found["status"], found["incomplete_details"]) == ("completed", None)
    assert found["usage"]["output_tokens_details"]["reasoning_tokens"] > 20


def test_a_tool_is_called_and_its_result_is_read(
    demo: Runtime, settings: ServerSettings
) -> None:
    async def work(client: Client) -> Any:
        question = {"role": "user", "content": OSLO}
        first = await create(client, [question], tools=[FUNCTION], store=False)
        call = first["output"][-1]
        result = {
            "type": "function_call_output",
            "call_id": call["call_id"],
            "output": '{"temperature": 21}',
        }
        items = [question, *first["output"], result]
        second = await create(client, items, tools=[FUNCTION], store=False)
        return call, second

    call, second = run(demo, settings, work)
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert json.loads(call["arguments"]) == {"city": "Oslo"}
    assert "21" in second["output"][-1]["content"][0]["text"]
    assert second["usage"]["input_tokens_details"]["cached_tokens"] > 0


def test_a_custom_tool_is_called_with_text_of_its_grammar(
    demo: Runtime, settings: ServerSettings
) -> None:
    found = run(
        demo,
        settings,
        lambda client: create(
            client,
            OSLO,
            tools=[CUSTOM],
            tool_choice={"type": "custom", "name": "get_weather"},
        ),
    )

    call = found["output"][-1]
    assert (call["type"], call["name"]) == ("custom_tool_call", "get_weather")
    assert re.fullmatch(r"city: [A-Z][a-z]{1,9}\n?", call["input"])


def test_the_answer_keeps_to_a_schema(demo: Runtime, settings: ServerSettings) -> None:
    schema = {"enum": ["Oslo", "Rome"]}
    form = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    found = run(
        demo,
        settings,
        lambda client: create(client, OSLO, text={"format": form}),
    )

    answer = json.loads(found["output"][-1]["content"][0]["text"])
    assert answer in schema["enum"]
    assert found["text"]["format"] == form | {"description": None}


@pytest.mark.parametrize(
    ("choice", "kinds"),
    [
        ("none", {"message"}),
        ("required", {"function_call"}),
        ({"type": "function", "name": "get_weather"}, {"function_call"}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "get_weather"}],
            },
            {"function_call"},
        ),
    ],
)
def test_tool_choice_is_kept(
    demo: Runtime, settings: ServerSettings, choice: Any, kinds: set[str]
) -> None:
    other = {"type": "function", "name": "get_time", "parameters": None}
    found = run(
        demo,
        settings,
        lambda client: create(
            client, OSLO, tools=[FUNCTION, other], tool_choice=choice
        ),
    )

    assert {item["type"] for item in found["output"]} - {"reasoning"} == kinds
    assert found["tool_choice"] == choice


def test_the_prompt_can_be_counted(demo: Runtime, settings: ServerSettings) -> None:
    async def work(client: Client) -> Any:
        fields = {"input": SUM, "tools": [FUNCTION], "instructions": "Be brief."}
        counted = await client.post(f"{PATH}/input_tokens", json=fields)
        asked = await create(client, SUM, **{k: fields[k] for k in list(fields)[1:]})
        return counted.json()["input_tokens"], asked["usage"]["input_tokens"]

    counted, asked = run(demo, settings, work)
    assert counted == asked


def test_a_model_that_says_nothing_legal_is_still_answered(
    settings: ServerSettings,
) -> None:
    with answering("<|channel|>final<|message|>Hi<|return|>") as runtime:
        found = run(runtime, settings, lambda client: create(client, "Hello"))

    assert [item["type"] for item in found["output"]] == ["message"]
