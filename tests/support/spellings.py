"""Minimal requests in every API, and what they are parsed to."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2

from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.messages.wire import MessagesRequest
from mlx_gptoss.api.responses.wire import ResponsesRequest
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import asked

USER = {"role": "user", "content": "Is it?"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/responses": {"input": [USER], "store": False},
    "/v1/messages": {"messages": [USER], "max_tokens": 300},
    "/v1/completions": {"prompt": "Is it?"},
}
CHAT, RESPONSES, MESSAGES, COMPLETIONS = BODIES
APIS = {CHAT: ChatRequest, RESPONSES: ResponsesRequest, MESSAGES: MessagesRequest}
TURNS = tuple(APIS)  # APIs with reasoning and formats
LIMITS = {  # the field of the token limit
    CHAT: "max_completion_tokens",
    RESPONSES: "max_output_tokens",
    MESSAGES: "max_tokens",
}


def read(path: str, **fields: Any) -> Any:
    """Validate a request with some fields."""
    return APIS[path].model_validate(BODIES[path] | fields)


def posts(
    runtime: Runtime, asks: Sequence[tuple[str, dict[str, Any]]]
) -> list[httpx2.Response]:
    async def work() -> list[httpx2.Response]:
        async with asked(runtime) as client:
            return [
                await client.post(path, json=BODIES[path] | fields)
                for path, fields in asks
            ]

    return asyncio.run(work())


SCHEMA = {
    "type": "object",
    "properties": {"name": {"const": "Maria"}},
    "required": ["name"],
    "additionalProperties": False,
}
