"""`/v1/responses` as Codex uses it: sealed reasoning, tools, ignored fields."""

from typing import Any

import pytest

from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.response_requests import (
    CUSTOM,
    FUNCTION,
    OSLO,
    PATH,
    Client,
    body,
    create,
    run,
)


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
