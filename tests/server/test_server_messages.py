"""`/v1/messages` over the demo model: what clients send, and what they get."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.answering_app import constant
from tests.support.fakes import answering
from tests.support.serving import DATE, WEATHER, asked

PATH = "/v1/messages"
SUM, OSLO = "What is 417 + 285?", "What is the weather in Oslo?"
FUNCTION = {
    "name": "get_weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}
SHOWN = {"type": "enabled", "budget_tokens": 2000}
Client = httpx2.AsyncClient


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


def run(
    runtime: Runtime,
    work: Callable[[Client], Awaitable[Any]],
    settings: ServerSettings | None = None,
) -> Any:
    async def all_of_it() -> Any:
        async with asked(runtime, settings or ServerSettings(date=DATE)) as client:
            return await work(client)

    return asyncio.run(all_of_it())


def body(said: Any, **fields: Any) -> dict[str, Any]:
    messages = said if isinstance(said, list) else [{"role": "user", "content": said}]
    limits = {"max_tokens": 300, "temperature": 0}
    return {"model": "demo", "messages": messages, **limits, **fields}


async def create(client: Client, said: Any, **fields: Any) -> Any:
    reply = await client.post(PATH, json=body(said, **fields))
    assert reply.status_code == 200, reply.text
    return reply.json()


async def stream(client: Client, said: Any, **fields: Any) -> list[dict[str, Any]]:
    reply = await client.post(PATH, json=body(said, stream=True, **fields))
    assert reply.status_code == 200, reply.text
    out = []
    for frame in filter(None, reply.text.split("\n\n")):
        name, data = frame.split("\n")
        out.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {out[-1]['type']}"
    return out


def rebuilt(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message as its events tell it, from Anthropic's description of them."""
    start, ping, *middle, delta, stop = events
    assert [one["type"] for one in (start, ping, delta, stop)] == [
        "message_start",
        "ping",
        "message_delta",
        "message_stop",
    ]
    message = start["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    blocks = message["content"]
    while middle:
        begun = middle.pop(0)
        assert (begun["type"], begun["index"]) == ("content_block_start", len(blocks))
        block, partial = begun["content_block"], ""
        while (event := middle.pop(0))["type"] == "content_block_delta":
            assert event["index"] == len(blocks)
            match event["delta"]:
                case {"type": "text_delta", "text": text}:
                    block["text"] += text
                case {"type": "thinking_delta", "thinking": text}:
                    block["thinking"] += text
                case {"type": "signature_delta", "signature": signature}:
                    block["signature"] = signature
                case {"type": "input_json_delta", "partial_json": text}:
                    partial += text
        assert event == {"type": "content_block_stop", "index": len(blocks)}
        if block["type"] == "tool_use":
            block["input"] = json.loads(partial)
        blocks.append(block)
    usage = message["usage"] | delta["usage"]
    return message | delta["delta"] | {"usage": usage}


def same(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what differs each time."""
    blocks = [{**block, "id": 0} for block in message["content"]]
    used = dict(message["usage"])
    used["read"] = used.pop("input_tokens") + used.pop("cache_read_input_tokens")
    return message | {"id": 0, "content": blocks, "usage": used}


@pytest.mark.parametrize(
    "fields",
    [
        {"said": OSLO},
        {"said": OSLO, "thinking": SHOWN},
        {"said": OSLO, "thinking": SHOWN | {"display": "omitted"}},
        {"said": OSLO, "thinking": SHOWN, "tools": [FUNCTION]},
        {"said": OSLO, "max_tokens": 9},
        {"said": OSLO, "thinking": {"type": "disabled"}, "max_tokens": 40},
    ],
    ids=["text", "thinking", "omitted", "call", "cut", "at-once"],
)
def test_a_stream_says_what_the_whole_message_says(
    demo: Runtime, fields: dict[str, Any]
) -> None:
    async def work(client: Client) -> Any:
        return await create(client, **fields), await stream(client, **fields)

    whole, events = run(demo, work)
    assert same(rebuilt(events)) == same(whole)


def test_reasoning_is_shown_to_those_who_ask(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        kinds = (None, SHOWN, SHOWN | {"display": "omitted"})
        return [await create(client, SUM, thinking=kind) for kind in kinds]

    plain, shown, omitted = run(demo, work)
    [answer] = plain["content"]
    assert answer == {"type": "text", "text": "417 + 285 = 702", "citations": []}
    thought = shown["content"][0]
    assert thought["thinking"].startswith("I work in columns.")
    assert unseal(thought["signature"]) == thought["thinking"]
    sealed = omitted["content"][0]
    assert (sealed["thinking"], sealed["signature"]) == ("", thought["signature"])
    assert plain["usage"]["output_tokens_details"]["thinking_tokens"] > 20


def test_a_tool_is_called_and_its_result_is_read(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        fields: dict[str, Any] = {"tools": [FUNCTION], "thinking": SHOWN}
        first = await create(client, OSLO, **fields)
        use = first["content"][-1]
        result = {
            "type": "tool_result",
            "tool_use_id": use["id"],
            "content": [{"type": "text", "text": '{"temperature": 21}'}],
        }
        second = await create(
            client,
            [
                {"role": "user", "content": OSLO},
                {"role": "assistant", "content": first["content"]},
                {"role": "user", "content": [result]},
            ],
            **fields,
        )
        return first, use, second

    first, use, second = run(demo, work)
    assert first["stop_reason"] == "tool_use"
    assert (use["name"], use["input"]) == ("get_weather", {"city": "Oslo"})
    assert "21" in second["content"][-1]["text"]
    assert second["stop_reason"] == "end_turn"
    assert second["usage"]["cache_read_input_tokens"] > 0


def test_reasoning_that_was_not_shown_is_remembered_for_the_call(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        first = await create(client, OSLO, tools=[FUNCTION])
        [use] = first["content"]
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": "21"}
        messages = [
            {"role": "user", "content": OSLO},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
        counted = []
        for id in (use["id"], "other"):
            known = json.loads(json.dumps(messages).replace(use["id"], id))
            ask = {"model": "demo", "messages": known, "tools": [FUNCTION]}
            reply = await client.post(f"{PATH}/count_tokens", json=ask)
            counted.append(reply.json()["input_tokens"])
        return counted

    remembered, unknown = run(demo, work)
    assert remembered > unknown


def test_why_it_ended_is_told(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        cut = await create(client, SUM, max_tokens=5)
        stopped = await create(client, SUM, stop_sequences=["nowhere", " = "])
        return cut, stopped

    cut, stopped = run(demo, work)
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("max_tokens", None)
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == (
        "stop_sequence",
        " = ",
    )
    assert stopped["content"][-1]["text"] == "417 + 285"


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"type": "any"}, "tool_use"),
        ({"type": "tool", "name": "get_weather"}, "tool_use"),
        ({"type": "none"}, "end_turn"),
        ({"type": "auto", "disable_parallel_tool_use": True}, "tool_use"),
    ],
)
def test_tool_choice_is_kept(demo: Runtime, choice: Any, reason: str) -> None:
    found = run(
        demo,
        lambda client: create(client, OSLO, tools=[FUNCTION], tool_choice=choice),
    )

    assert found["stop_reason"] == reason


def test_the_answer_keeps_to_a_schema(demo: Runtime) -> None:
    form = {"type": "json_schema", "schema": {"enum": ["Oslo", "Rome"]}}
    found = run(
        demo, lambda client: create(client, OSLO, output_config={"format": form})
    )

    assert json.loads(found["content"][-1]["text"]) in ("Oslo", "Rome")


def test_the_prompt_can_be_counted(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        fields = {
            "system": [{"type": "text", "text": "Be brief."}],
            "tools": [FUNCTION],
        }
        ask = body(OSLO, **fields)
        del ask["max_tokens"], ask["temperature"]
        counted = await client.post(f"{PATH}/count_tokens", json=ask)
        found = await create(client, OSLO, **fields)
        return counted.json(), found["usage"]

    counted, used = run(demo, work)
    assert counted == {
        "input_tokens": used["input_tokens"] + used["cache_read_input_tokens"]
    }


def test_what_is_passed_over_is_named(demo: Runtime) -> None:
    others = [
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "bash_20250124", "name": "bash"},
    ]
    fields = {"metadata": {"user_id": "x"}, "betas": ["y"], "temperature": 0}
    for path in (PATH, f"{PATH}/render"):
        given = body("Hi", tools=others, max_tokens=4, **fields)
        reply = run(demo, lambda client, p=path, g=given: client.post(p, json=g))

        assert reply.headers["x-mlx-gptoss-ignored"] == (
            "fields=betas,metadata; tools=bash,web_search"
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"max_tokens": 0},
        {"tool_choice": {"type": "some"}},
        {"tool_choice": {"type": "tool", "name": "nobody"}},
        {"system": [{"type": "image"}]},
        {"stop_sequences": [""]},
    ],
)
def test_what_is_wrong_has_anthropics_form(
    demo: Runtime, fields: dict[str, Any]
) -> None:
    reply = run(demo, lambda client: client.post(PATH, json=body("Hi", **fields)))

    told = reply.json()
    assert reply.status_code == 400
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert told["error"]["message"]


def test_x_api_key_is_a_key(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        ask = body("Hi", max_tokens=4)
        keys = ({}, {"x-api-key": "wrong"}, {"x-api-key": "secret"})
        return [await client.post(PATH, json=ask, headers=key) for key in keys]

    missing, wrong, right = run(demo, work, ServerSettings(date=DATE, api_key="secret"))
    assert missing.json()["error"]["type"] == "authentication_error"
    assert [r.status_code for r in (missing, wrong, right)] == [401, 401, 200]


def test_an_unknown_model_has_anthropics_form(demo: Runtime) -> None:
    reply = run(demo, lambda client: client.post(PATH, json=body("Hi", model="x")))

    assert reply.status_code == 404
    assert reply.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_fills_the_context_is_said_in_anthropics_words(
    stream: bool,
) -> None:
    with load("demo", context=64) as runtime:
        reply = run(
            runtime,
            lambda client: client.post(PATH, json=body("word " * 100, stream=stream)),
        )

    error = reply.json()["error"]
    found = re.fullmatch(
        r"prompt is too long: (\d+) tokens > 63 maximum", error["message"]
    )
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert found and int(found[1]) > 100


def test_a_message_counts_all_that_anthropics_does() -> None:
    async def work(client: Client) -> Any:
        whole = await create(client, SUM, tools=[FUNCTION])
        start, *_, delta, _ = await stream(client, SUM)
        return whole, start["message"], delta

    with constant() as runtime:
        whole, started, delta = run(runtime, work)
    counted = {
        "input_tokens",
        "output_tokens",
        "output_tokens_details",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "server_tool_use",
    }
    assert delta["usage"].keys() == counted
    more = {"cache_creation", "inference_geo", "service_tier"}
    assert whole["usage"].keys() == started["usage"].keys() == counted | more
    assert whole["usage"]["service_tier"] == "standard"
    assert delta["delta"] == {
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
    }


def test_preamble_and_answer_are_blocks_of_their_own() -> None:
    said = (
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        "<|channel|>final<|message|>Yes.<|return|>"
    )
    with answering(said) as runtime:
        found = run(runtime, lambda client: create(client, "Hi"))

    assert [block["text"] for block in found["content"]] == ["I look.", "Yes."]
