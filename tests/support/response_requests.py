"""Send requests to `/v1/responses`, whole and streamed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import WEATHER, asked

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
Client = httpx2.AsyncClient


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
