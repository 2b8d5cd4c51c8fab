"""Send requests to `/v1/messages`, and rebuild messages from their events."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support import sse
from tests.support.serving import DATE, asked

PATH = "/v1/messages"
Client = httpx2.AsyncClient


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


async def stream(client: Client, said: Any, **fields: Any) -> list[dict[str, Any]]:
    reply = await client.post(PATH, json=body(said, stream=True, **fields))
    assert reply.status_code == 200, reply.text
    return sse.named(reply.text)
