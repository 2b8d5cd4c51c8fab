"""Send requests to the app over a runtime."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import asked

CONTEXT = 2048
Client = httpx2.AsyncClient


def run(
    runtime: Runtime,
    work: Callable[[Client], Awaitable[Any]],
) -> Any:
    async def main() -> Any:
        async with asked(runtime) as client:
            return await work(client)

    return asyncio.run(main())
