"""`/v1/responses` over the demo model: what clients send, and what they get."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.answering_app import constant
from tests.support.fakes import answering
from tests.support.response_events import rebuilt
from tests.support.serving import DATE, WEATHER, asked

PATH = "/v1/responses"
SUM, OSLO = "What is 417 + 285?", "What is the weather in Oslo?"
FUNCTION = {"type": "function", **WEATHER["function"]}
LARK = """start: "city: " name LF?
name: /[A-Z][a-z]{1,9}/
%import common.LF
"""
CUSTOM = {  # with the name of a tool that the demo model likes to call
    "type": "custom",
    "name": "get_weather",
    "description": "Gets the weather for a city.",
    "format": {"type": "grammar", "syntax": "lark", "definition": LARK},
}
CHANGES = re.compile(r'"(id|item_id|call_id|created_at|completed_at)":"?\w+"?')

Client = httpx2.AsyncClient


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings(date=DATE, store=tmp_path)


def run(
    runtime: Runtime, settings: ServerSettings, work: Callable[[Client], Awaitable[Any]]
) -> Any:
    async def all_of_it() -> Any:
        async with asked(runtime, settings) as client:
            return await work(client)

    return asyncio.run(all_of_it())


def body(asked: Any, **fields: Any) -> dict[str, Any]:
    limits = {"temperature": 0, "max_output_tokens": 400}
    return {"model": "demo", "input": asked, **limits, **fields}


async def create(client: Client, asked: Any, **fields: Any) -> Any:
    reply = await client.post(PATH, json=body(asked, **fields))
    assert reply.status_code == 200, reply.text
    return reply.json()


async def stream(client: Client, asked: Any, **fields: Any) -> list[dict[str, Any]]:
    reply = await client.post(PATH, json=body(asked, stream=True, **fields))
    assert reply.status_code == 200, reply.text
    return events(reply.text)


def events(text: str) -> list[dict[str, Any]]:
    out = []
    *frames, last, after = text.split("\n\n")
    assert (last, after) == ("data: [DONE]", "")
    for frame in frames:
        name, data = frame.split("\n")
        out.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {out[-1]['type']}"
    return out


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


def test_a_conversation_goes_on_by_its_id_also_after_a_restart(
    demo: Runtime, settings: ServerSettings
) -> None:
    async def begin(client: Client) -> Any:
        return await create(client, OSLO, tools=[FUNCTION], instructions="Be brief.")

    first = run(demo, settings, begin)

    async def go_on(client: Client) -> Any:
        result = {
            "type": "function_call_output",
            "call_id": first["output"][-1]["call_id"],
            "output": '{"temperature": 21}',
        }
        before = {"previous_response_id": first["id"], "tools": [FUNCTION]}
        second = await create(client, [result], **before)
        listed = await client.get(f"{PATH}/{second['id']}/input_items?order=asc")
        return second, listed.json(), (await client.get(f"{PATH}/{first['id']}")).json()

    second, listed, retrieved = run(demo, settings, go_on)
    assert "21" in second["output"][-1]["content"][0]["text"]
    assert retrieved == first
    assert [item["type"] for item in listed["data"]] == [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert listed["has_more"] is False
    assert listed["last_id"] == listed["data"][-1]["id"]


def test_pages_of_input_items(demo: Runtime, settings: ServerSettings) -> None:
    async def work(client: Client) -> Any:
        items = [{"role": "user", "content": str(n)} for n in range(5)]
        found = await create(client, items, max_output_tokens=5)
        path = f"{PATH}/{found['id']}/input_items"
        first = (await client.get(f"{path}?limit=2")).json()
        after = {"limit": 3, "after": first["last_id"]}
        second = (await client.get(path, params=after)).json()
        wrong = await client.get(path, params={"after": "nobody"})
        return first, second, wrong.status_code

    first, second, wrong = run(demo, settings, work)
    shown = [
        [item["content"][0]["text"] for item in page["data"]]
        for page in (first, second)
    ]
    assert shown == [["4", "3"], ["2", "1", "0"]]
    assert (first["has_more"], second["has_more"], wrong) == (True, False, 400)


def test_stored_items_can_be_referred_to(
    demo: Runtime, settings: ServerSettings
) -> None:
    async def work(client: Client) -> Any:
        first = await create(client, SUM)
        references = [
            {"type": "item_reference", "id": o["id"]} for o in first["output"]
        ]
        items = [{"role": "user", "content": SUM}, *references]
        plain = [{"role": "user", "content": SUM}, *first["output"]]
        ask = {"role": "user", "content": "Hello"}
        return [
            (await create(client, [*one, ask]))["usage"]["input_tokens"]
            for one in (items, plain)
        ]

    by_reference, by_value = run(demo, settings, work)
    assert by_reference == by_value


@pytest.mark.parametrize("store", [True, False, None])
def test_what_is_not_to_be_stored_is_not(
    demo: Runtime, settings: ServerSettings, store: bool | None
) -> None:
    async def work(client: Client) -> Any:
        found = await create(client, "Hello", store=store, max_output_tokens=5)
        return found["store"], (await client.get(f"{PATH}/{found['id']}")).status_code

    kept = store is not False
    assert run(demo, settings, work) == (kept, 200 if kept else 404)


def test_a_server_without_a_store_says_so(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        first = await create(client, "Hello", max_output_tokens=5)
        reply = await client.post(
            PATH, json=body("And?", previous_response_id=first["id"])
        )
        return first["store"], reply.status_code, reply.json()["error"]["param"]

    found = run(demo, ServerSettings(date=DATE), work)
    assert found == (False, 400, "previous_response_id")


def test_a_deleted_response_is_gone(demo: Runtime, settings: ServerSettings) -> None:
    async def work(client: Client) -> Any:
        found = await create(client, "Hello", max_output_tokens=5)
        path = f"{PATH}/{found['id']}"
        deleted = (await client.delete(path)).json()
        return deleted["deleted"], [
            (await client.get(path)).status_code,
            (await client.delete(path)).status_code,
            (await client.get(f"{path}/input_items")).status_code,
            (await client.post(f"{path}/cancel")).status_code,
        ]

    assert run(demo, settings, work) == (True, [404] * 4)


async def live(client: Client, **fields: Any) -> AsyncIterator[dict[str, Any]]:
    """The events of a response in the moment they come."""
    async with client.stream("POST", PATH, json=body(SUM, stream=True, **fields)) as r:
        async for line in r.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_a_long_conversation_is_cut_only_where_that_was_asked(
    settings: ServerSettings,
) -> None:
    turns = [
        one
        for n in range(40)
        for one in (
            {"role": "user", "content": f"question {n} " + "word " * 40},
            {"role": "assistant", "content": f"answer {n}"},
        )
    ]
    items = [*turns, {"role": "user", "content": "Hello"}]

    async def work(client: Client) -> Any:
        cut = await create(client, items, truncation="auto", max_output_tokens=4)
        whole = await client.post(PATH, json=body(items))
        return cut["usage"]["input_tokens"], whole.status_code, whole.json()["error"]

    with load("demo", context=1024) as small:
        tokens, status, error = run(small, settings, work)
    assert 100 < tokens <= 512
    assert (status, error["code"]) == (400, "context_length_exceeded")


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


def test_sealed_reasoning_is_as_good_as_the_reasoning(
    demo: Runtime, settings: ServerSettings
) -> None:
    include = ["reasoning.encrypted_content"]

    async def work(client: Client) -> Any:
        fields: dict[str, Any] = {"tools": [FUNCTION], "store": False}
        first = await create(client, OSLO, include=include, **fields)
        thought, call = first["output"]
        sealed = {**thought, "content": None}
        foreign = {**sealed, "encrypted_content": "gAAAAABfromsomewhere"}
        result = {
            "type": "function_call_output",
            "call_id": call["call_id"],
            "output": "21",
        }
        ask = {"role": "user", "content": OSLO}
        tokens = [
            (await create(client, [ask, one, call, result], **fields))["usage"][
                "input_tokens"
            ]
            for one in (thought, sealed)
        ]
        await create(client, [ask, foreign, call, result], **fields)
        return thought, tokens

    thought, [plain, sealed] = run(demo, settings, work)
    assert unseal(thought["encrypted_content"]) == thought["content"][0]["text"]
    assert plain == sealed


def test_what_codex_sends_is_taken_and_what_is_passed_over_is_named(
    demo: Runtime, settings: ServerSettings
) -> None:
    async def work(client: Client) -> Any:
        return await client.post(
            PATH,
            json=body(
                [
                    {
                        "type": "message",
                        "role": "developer",
                        "content": [{"type": "input_text", "text": "<permissions>"}],
                    },
                    {"type": "web_search_call", "id": "ws_1"},
                    {
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": OSLO}],
                    },
                ],
                instructions="You are Codex.",
                tools=[
                    FUNCTION | {"strict": False},
                    CUSTOM | {"name": "apply_patch"},
                    {"type": "namespace", "name": "mcp", "tools": []},
                    {"type": "web_search", "external_web_access": False},
                    {"type": "x\r\ninjected: 1"},
                ],
                tool_choice="auto",
                parallel_tool_calls=False,
                reasoning={"summary": "auto"},
                store=False,
                include=["reasoning.encrypted_content"],
                prompt_cache_key="0199",
                client_metadata={"x": "y"},
                text={"verbosity": "low"},
            ),
        )

    reply = run(demo, settings, work)
    assert reply.status_code == 200
    assert reply.headers["x-mlx-gptoss-ignored"] == (
        "fields=client_metadata,prompt_cache_key,verbosity; "
        "tools=namespace,web_search; items=web_search_call; unknown=1"
    )
    assert reply.json()["output"][-1]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0]",
        ),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"previous_response_id": "resp_gone"}, "previous_response_id"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**CUSTOM, "format": {"type": "grammar"}}]}, "tools[0].format"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"truncation": "some"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_what_is_wrong_is_named(
    demo: Runtime, settings: ServerSettings, fields: dict[str, Any], param: str
) -> None:
    reply = run(
        demo, settings, lambda client: client.post(PATH, json=body("Hi", **fields))
    )

    error = reply.json()["error"]
    assert reply.status_code == 400
    assert (error["type"], error["param"].split(".str")[0]) == (
        "invalid_request_error",
        param,
    )


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
