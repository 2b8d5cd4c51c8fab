"""What the real Codex sent, sent again: its tools reach the model, its calls come back.

The sessions of `tests/golden/codex/` were recorded by
`tests/server/test_clients_codex.py`. Beside each is the prompt that its
last request became, which a person can read.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response

from mlx_gptoss import load
from mlx_gptoss.api.settings import ServerSettings
from tests.server.test_clients_codex import END, SESSIONS
from tests.support import sse
from tests.support.codex_requests import FOLDER, requests
from tests.support.fakes import AnsweringModel, answering
from tests.support.response_events import rebuilt
from tests.support.serving import DATE, WEATHER, asked

CALLS = ("function_call", "custom_tool_call", "tool_search_call")
FIELDS = ("type", "namespace", "name", "execution", "arguments", "input")
ADDED = ("function_call", "mcp__numbers", "add", '{"a": 2, "b": 3}')
SEARCHED = ("tool_search_call", "client", {"query": "add"})
PATCH = "*** Begin Patch\n*** Add File: sum.txt\n+5\n*** End Patch\n"
CALLED = {
    "direct": [
        ADDED,
        ("function_call", "mcp__numbers", "fail", "{}"),
        ("function_call", "exec_command", '{"cmd": "echo 5 > sum.txt"}'),
    ],
    "search": [SEARCHED, ADDED, ("custom_tool_call", "apply_patch", PATCH)],
    "lite": [SEARCHED, ADDED, ("custom_tool_call", "functions", "apply_patch", PATCH)],
}
IGNORED = {
    "direct": "fields=client_metadata,prompt_cache_key; tools=web_search",
    "search": "fields=client_metadata,prompt_cache_key,verbosity; tools=web_search",
    "lite": "fields=client_metadata,prompt_cache_key,reasoning.context,verbosity",
}


def replay(session: str, settings: ServerSettings) -> tuple[list[Any], str]:
    """Send a session again; return the replies, and the last prompt."""

    async def send() -> list[Any]:
        async with asked(runtime, settings) as client:
            bodies = requests(session)
            return [await client.post("/v1/responses", json=one) for one in bodies]

    with answering(*SESSIONS[session]) as runtime:
        replies = asyncio.run(send())
        model = runtime.model
        assert isinstance(model, AnsweringModel)
        return replies, runtime.tokenizer.decode(model.prompts[-1])


def streamed(reply: Any) -> dict[str, Any]:
    """The response that a stream tells, which OpenAI's library can read."""
    assert reply.status_code == 200, reply.text
    response = rebuilt(sse.objects(reply.text))
    Response.model_validate(response)
    return response


@pytest.mark.parametrize("session", CALLED)
def test_a_recorded_session_is_understood(session: str, tmp_path: Path) -> None:
    settings = ServerSettings(date=DATE, store=tmp_path)
    replies, prompt = replay(session, settings)
    outputs = [streamed(reply)["output"] for reply in replies]
    calls = [item for output in outputs for item in output if item["type"] in CALLS]

    assert [
        tuple(call[name] for name in FIELDS if name in call) for call in calls
    ] == CALLED[session]
    assert outputs[-1][-1]["content"][0]["text"] == "The sum is 5."
    assert {one.headers["x-mlx-gptoss-ignored"] for one in replies} == {
        IGNORED[session]
    }
    assert prompt == (FOLDER / f"{session}.txt").read_text()


# namespaces, asked for by hand

ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}
NUMBERS = {"type": "namespace", "name": "numbers", "tools": [ADD]}
CALL = "<|channel|>commentary to=functions.numbers__add <|constrain|>json<|message|>{}"


def test_a_call_of_a_namespace_is_remembered_with_it(tmp_path: Path) -> None:
    async def converse() -> Any:
        async with asked(runtime, ServerSettings(date=DATE, store=tmp_path)) as client:
            body = {"model": "demo", "tools": [NUMBERS]}
            first = await client.post("/v1/responses", json=body | {"input": "Add."})
            [call] = first.json()["output"]
            result = {"type": "function_call_output", "call_id": call["call_id"]}
            more = {"previous_response_id": first.json()["id"]}
            items = {"input": [result | {"output": "5"}]}
            second = await client.post("/v1/responses", json=body | more | items)
            return call, second.json()["output"][-1]["content"][0]["text"]

    with answering(f"{CALL}<|call|>", END) as runtime:
        call, answer = asyncio.run(converse())
        model = runtime.model
        assert isinstance(model, AnsweringModel)
        prompt = runtime.tokenizer.decode(model.prompts[-1])

    assert (call["namespace"], call["name"]) == ("numbers", "add")
    assert answer == "The sum is 5."
    assert prompt.endswith(
        "<|start|>assistant to=functions.numbers__add<|channel|>commentary "
        "<|constrain|>json<|message|>{}<|call|>"
        "<|start|>functions.numbers__add to=assistant<|channel|>commentary"
        "<|message|>5<|end|><|start|>assistant"
    )


def test_a_model_calls_the_tool_of_the_namespace_that_was_chosen() -> None:
    weather = {"type": "function", **WEATHER["function"], "strict": True}
    spaces = [
        {"type": "namespace", "name": name, "tools": [weather]} for name in ("a", "b")
    ]
    body = {
        "model": "demo",
        "input": "What is the weather in Oslo?",
        "tools": spaces,
        "tool_choice": {"type": "function", "name": "get_weather", "namespace": "b"},
        "temperature": 0,
        "max_output_tokens": 400,
    }

    async def send() -> Any:
        async with asked(runtime, ServerSettings(date=DATE)) as client:
            return await client.post("/v1/responses", json=body)

    with load("demo") as runtime:
        call = asyncio.run(send()).json()["output"][-1]

    assert (call["namespace"], call["name"]) == ("b", "get_weather")
    assert json.loads(call["arguments"]).keys() == {"city"}
