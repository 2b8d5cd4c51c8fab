"""`/v1/messages`: blocks, reasoning, tools, counts."""

import json
from typing import Any

import pytest

from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.engine.runtime import Runtime
from tests.support.answering_app import constant
from tests.support.fakes import answering
from tests.support.message_requests import PATH, Client, body, run, stream
from tests.support.serving import WEATHER

SUM, OSLO = "What is 417 + 285?", "What is the weather in Oslo?"
FUNCTION = {
    "name": "get_weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}
SHOWN = {"type": "enabled", "budget_tokens": 2000}


async def create(client: Client, said: Any, **fields: Any) -> Any:
    reply = await client.post(PATH, json=body(said, **fields))
    assert reply.status_code == 200, reply.text
    return reply.json()


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
