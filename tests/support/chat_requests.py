"""Send chat completions to the app, and pick the answer from the reply."""

import asyncio
from typing import Any

import httpx2

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import asked, question

OSLO = "What is the weather in Oslo?"
SUM = "What is 417 + 285?"
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": None}}


def post(
    runtime: Runtime,
    body: dict[str, Any],
    *,
    path: str = "/v1/chat/completions",
    settings: ServerSettings | None = None,
) -> httpx2.Response:
    async def work() -> httpx2.Response:
        async with asked(runtime, settings) as client:
            return await client.post(path, json=body)

    return asyncio.run(work())


def choice(reply: httpx2.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


def refused(reply: httpx2.Response) -> dict[str, Any]:
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def prompt_of(runtime: Runtime, **fields: Any) -> str:
    body = question("hi", **fields)
    return post(runtime, body, path="/v1/chat/render").json()["prompt"]


def tool(schema: Any, *, strict: bool = False) -> dict[str, Any]:
    function = {"name": "f", "parameters": schema, "strict": strict}
    return {"type": "function", "function": function}
