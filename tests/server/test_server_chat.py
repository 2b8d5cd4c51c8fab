"""Chat completions over the demo model: what clients send, and what they get."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import WEATHER, asked, events, question

SUM = "What is 417 + 285?"
OSLO = "What is the weather in Oslo?"


def ask(runtime: Runtime, body: dict[str, Any]) -> Any:
    async def work() -> Any:
        async with asked(runtime) as client:
            return await client.post("/v1/chat/completions", json=body)

    return asyncio.run(work())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_an_answer_comes_with_its_reasoning_and_what_it_took(demo: Runtime) -> None:
    reply = ask(demo, question(SUM)).json()

    [choice] = reply["choices"]
    assert choice["message"]["content"] == "417 + 285 = 702"
    assert choice["message"]["reasoning"].startswith("I work in columns.")
    assert choice["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] > 20


def test_a_stream_says_what_the_whole_reply_says(demo: Runtime) -> None:
    whole = ask(demo, question(SUM)).json()["choices"][0]["message"]
    options = {"include_usage": True}
    reply = ask(demo, question(SUM, stream=True, stream_options=options))

    *chunks, last = events(reply.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(d.get("content", "") for d in deltas) == whole["content"]
    assert "".join(d.get("reasoning", "") for d in deltas) == whole["reasoning"]
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "stop"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 20


def test_a_tool_is_called_and_its_result_is_read(demo: Runtime) -> None:
    first = ask(demo, question(OSLO, tools=[WEATHER])).json()["choices"][0]
    [call] = first["message"]["tool_calls"]
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["content"] is None
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}

    body = question(OSLO, tools=[WEATHER])
    result = {
        "role": "tool",
        "tool_call_id": call["id"],
        "content": '{"temperature": 21}',
    }
    body["messages"] += [first["message"], result]
    second = ask(demo, body).json()["choices"][0]
    assert second["message"]["content"] == "The temperature is 21."
    assert second["finish_reason"] == "stop"


def test_arguments_stream_in_pieces_that_join_to_the_call(demo: Runtime) -> None:
    reply = ask(demo, question(OSLO, tools=[WEATHER], stream=True))

    deltas = [chunk["choices"][0]["delta"] for chunk in events(reply.text)]
    calls = [one for d in deltas for one in d.get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "get_weather"
    assert {call["index"] for call in calls} == {0}
    assert len(calls) > 2
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"city": "Oslo"}


def test_an_unknown_model_is_refused_with_the_known_ones(demo: Runtime) -> None:
    reply = ask(demo, question("hi", model="gpt-4"))

    assert reply.status_code == 404
    assert reply.json()["error"] == {
        "message": "The model `gpt-4` does not exist: this server has `demo`",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_a_wrong_type_is_refused_with_its_place(demo: Runtime) -> None:
    reply = ask(demo, question("hi", temperature="hot"))

    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "temperature")
    assert error["message"].startswith("`temperature`: ")


def test_what_has_no_effect_is_named_and_nothing_else_is(demo: Runtime) -> None:
    tools = [WEATHER, {"type": "web_search"}, {"type": "evil\r\nx: y"}]
    body = question("Hi!", tools=tools, user="u", secret_field=1, max_tokens=1)
    reply = ask(demo, body)

    assert reply.status_code == 200
    named = reply.headers["x-mlx-gptoss-ignored"]
    assert named == "fields=user; tools=web_search; unknown=2"


def test_reasoning_is_remembered_for_clients_that_do_not_return_it(
    demo: Runtime,
) -> None:
    async def work() -> list[str]:
        async with asked(demo) as client:
            body = question(OSLO, tools=[WEATHER])
            reply = await client.post("/v1/chat/completions", json=body)
            message = reply.json()["choices"][0]["message"]
            call_id = message["tool_calls"][0]["id"]
            result = {"role": "tool", "tool_call_id": call_id, "content": "21"}
            prompts = []
            for told in (message, {**message, "reasoning": None}):
                asking = {**body, "messages": [*body["messages"], told, result]}
                shown = await client.post("/v1/chat/render", json=asking)
                prompts.append(shown.json()["prompt"])
            return prompts

    with_it, without = run(work())
    assert without == with_it
    assert "get_weather city=Oslo" in without
