"""A server to ask: the app in this process, over the demo model or a scripted one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models
from tests.support import sse

DATE = "2026-11-22"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Gets the weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@asynccontextmanager
async def asked(
    runtime: Runtime, settings: ServerSettings | None = None, **client: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the app over one runtime, which stays open."""
    app = create_app(Models.of(runtime, "demo"), settings or ServerSettings(date=DATE))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    options = {"base_url": "http://localhost", "timeout": 60} | client
    async with httpx2.AsyncClient(transport=transport, **options) as asking:
        yield asking


def question(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a chat completion, greedy unless told otherwise."""
    messages = [{"role": "user", "content": text}]
    return {"model": "demo", "messages": messages, "temperature": 0} | fields


def events(text: str) -> list[Any]:
    """The data of a stream, without its comments and its end."""
    return sse.ended(text)
