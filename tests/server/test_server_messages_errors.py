"""Errors and ignored fields of `/v1/messages`, in Anthropic's form."""

import re
from typing import Any

import pytest

from mlx_gptoss import load
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.message_requests import PATH, Client, body, run
from tests.support.serving import DATE


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
