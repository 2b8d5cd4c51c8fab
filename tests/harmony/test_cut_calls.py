"""A call that was cut is no call: on no API, in streams or not, by no client's reading.

The cut is made by `max_tokens`, at every kind of place; what goes in circles ends in
the same way (`tests/engine/test_guide.py`).
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.constrain.loops import ALLOWED
from tests.support import sse
from tests.support.answering_app import constant
from tests.support.fakes import byte_tokenizer, token_ids
from tests.support.live import live
from tests.support.response_events import rebuilt
from tests.support.serving import DATE, asked, events

TOKENIZER = byte_tokenizer()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION: dict[str, Any] = {"name": "look", "description": "", "parameters": SCHEMA}
HEADER = "<|channel|>commentary to=functions.look <|constrain|>json<|message|>"
ARGUMENTS = '{"city":"Oslo"}'
BEFORE = f"{HEADER}{ARGUMENTS}<|end|><|start|>assistant"


def tokens(text: str) -> int:
    return len(token_ids(text, TOKENIZER))


WHOLE = tokens(HEADER + ARGUMENTS) + 1
CUTS = {
    "in the header": tokens(HEADER) - 3,
    "behind the header": tokens(HEADER),
    "within": tokens(HEADER) + 9,
    "before the last bracket": WHOLE - 2,
    "before its end": WHOLE - 1,
}


FEW = ("behind the header", "before its end")  # where little keeps it from being run


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with constant(f"{HEADER}{ARGUMENTS}<|call|>") as runtime:
        yield runtime


def post(runtime: Runtime, path: str, body: dict[str, Any]) -> httpx2.Response:
    async def work() -> httpx2.Response:
        async with asked(runtime) as client:
            return await client.post(path, json={"model": "demo"} | body)

    reply = asyncio.run(work())
    assert reply.status_code == 200, reply.text
    return reply


def chat(most: int, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi"}]
    tools = [{"type": "function", "function": FUNCTION}]
    return {"messages": messages, "tools": tools, "max_tokens": most} | fields


def responses(most: int, **fields: Any) -> dict[str, Any]:
    tools = [{"type": "function", **FUNCTION}]
    return {"input": "Hi", "tools": tools, "max_output_tokens": most} | fields


def message(most: int, **fields: Any) -> dict[str, Any]:
    tools = [{"name": "look", "input_schema": SCHEMA}]
    messages = [{"role": "user", "content": "Hi"}]
    return {"messages": messages, "tools": tools, "max_tokens": most} | fields


@pytest.mark.parametrize("cut", FEW)
def test_a_whole_reply_has_no_call_that_was_cut(runtime: Runtime, cut: str) -> None:
    most = CUTS[cut]
    [choice] = post(runtime, "/v1/chat/completions", chat(most)).json()["choices"]
    response = post(runtime, "/v1/responses", responses(most)).json()
    told = post(runtime, "/v1/messages", message(most)).json()

    assert choice["finish_reason"] == "length"
    assert (choice["message"]["content"], "tool_calls" in choice["message"]) == (
        "",
        False,
    )
    assert (response["status"], response["output"]) == ("incomplete", [])
    assert response["incomplete_details"]["reason"] == "max_output_tokens"
    assert (told["stop_reason"], told["content"]) == ("max_tokens", [])


@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_has_none_that_could_be_run(runtime: Runtime, cut: str) -> None:
    most = CUTS[cut]
    chunks = events(post(runtime, "/v1/chat/completions", chat(most, stream=True)).text)
    deltas = [one["choices"][0]["delta"].get("tool_calls") for one in chunks]
    written = "".join(one[0]["function"]["arguments"] for one in deltas if one)
    items = sse.objects(
        post(runtime, "/v1/responses", responses(most, stream=True)).text
    )
    blocks = sse.objects(post(runtime, "/v1/messages", message(most, stream=True)).text)

    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert bool(written) == any(deltas)  # no client is to take nothing for `{}`
    assert ARGUMENTS.startswith(written) and written != ARGUMENTS
    assert rebuilt(items)["output"] == []
    assert not [one for one in items if one["type"].endswith(".done")]
    assert not [one for one in blocks if one["type"].startswith("content_block")]
    assert blocks[-2]["delta"]["stop_reason"] == "max_tokens"


def test_what_was_called_before_the_cut_is_called() -> None:
    with constant(f"{BEFORE}{HEADER}{ARGUMENTS}<|call|>") as runtime:
        most = tokens(BEFORE + HEADER) + 9
        [choice] = post(runtime, "/v1/chat/completions", chat(most)).json()["choices"]
        response = post(runtime, "/v1/responses", responses(most)).json()
        streamed = sse.objects(
            post(runtime, "/v1/messages", message(most, stream=True)).text
        )

    [call] = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == ARGUMENTS
    assert choice["finish_reason"] == "length"
    [item] = response["output"]
    assert (item["status"], item["arguments"]) == ("completed", ARGUMENTS)
    written = [one["delta"] for one in streamed if "delta" in one][:-1]
    assert written == [{"type": "input_json_delta", "partial_json": ARGUMENTS}]


def test_a_whole_call_streams_as_it_is_written(runtime: Runtime) -> None:
    chunks = events(post(runtime, "/v1/chat/completions", chat(99, stream=True)).text)
    calls = [one["choices"][0]["delta"].get("tool_calls") for one in chunks]
    [first, *rest] = [one[0] for one in calls if one]

    assert (first["function"]["name"], first["function"]["arguments"]) == ("look", "")
    assert "".join(one["function"]["arguments"] for one in rest) == ARGUMENTS
    assert len(rest) == len(ARGUMENTS)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    answer = f"{HEADER}{ARGUMENTS}<|call|>"
    with (
        constant(answer) as runtime,
        live(runtime, ServerSettings(date=DATE)) as server,
    ):
        yield server.url


@pytest.mark.parametrize("cut", FEW)
def test_anthropics_own_loop_runs_nothing(url: str, cut: str) -> None:
    """This client runs every block, whatever the stop reason."""
    ran: list[str] = []

    @anthropic.beta_tool
    def look(city: str = "nowhere") -> str:
        """Look.

        Args:
            city: where
        """
        ran.append(city)
        return "clear"

    with anthropic.Anthropic(base_url=url, api_key="none") as client:
        runner = client.beta.messages.tool_runner(
            model="demo",
            max_tokens=CUTS[cut],
            tools=[look],
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            max_iterations=2,
        )
        for stream in runner:
            found = stream.get_final_message()
            assert (found.content, found.stop_reason) == ([], "max_tokens")
    assert ran == []


@pytest.mark.parametrize("cut", FEW)
def test_what_openais_client_gathers_cannot_be_run(url: str, cut: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        with (
            client.chat.completions.stream(**chat(CUTS[cut]), model="demo") as stream,
            pytest.raises(openai.LengthFinishReasonError) as error,
        ):
            stream.get_final_completion()
        [choice] = error.value.completion.choices
        with client.responses.stream(**responses(CUTS[cut]), model="demo") as items:
            kinds = [event.type for event in items]

    for call in choice.message.tool_calls or ():
        assert call.type == "function"
        with pytest.raises(json.JSONDecodeError):
            json.loads(call.function.arguments)
    assert kinds[-1] == "response.incomplete"
    assert "response.output_item.done" not in kinds


@pytest.mark.soak
def test_arguments_in_circles_are_cut_on_every_api() -> None:
    """The demo model, made to repeat one word within a string without end."""
    with load("demo") as demo:
        [word] = demo.tokenizer.encode(" is")
        forced: dict[str, Any] = {"logit_bias": {str(word): 100}, "temperature": 0}
        forced |= {"tool_choice": "required"}
        schema = SCHEMA | {"required": ["city"]}
        function = {**FUNCTION, "parameters": schema}
        tools = [{"type": "function", "function": function}]
        body = chat(20_000, **forced, reasoning_effort="none") | {"tools": tools}
        reply = post(demo, "/v1/chat/completions", body).json()
        tools = [{"type": "function", **function}]
        body = responses(20_000, **forced, reasoning={"effort": "none"})
        response = post(demo, "/v1/responses", body | {"tools": tools})

    [choice] = reply["choices"]
    assert "tool_calls" not in choice["message"]
    assert (choice["finish_reason"], choice["finish_details"]) == (
        "length",
        ["call_loop"],
    )
    assert ALLOWED < reply["usage"]["completion_tokens"] < ALLOWED + 400
    assert response.json()["output"] == []
    assert response.json()["finish_details"] == ["call_loop"]
