"""Send one conversation to every API."""

import asyncio
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.openai_chat import from_chat_messages
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.serving import DATE, WEATHER, asked
from tests.support.talks import (
    APIS,
    Api,
    Step,
    User,
)

ASK = User("What is the weather?")
every_api = pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)


def post(runtime: Runtime, *requests: tuple[str, Any], **settings: Any) -> list[Any]:
    async def work() -> list[Any]:
        async with asked(runtime, ServerSettings(date=DATE, **settings)) as client:
            return [await client.post(path, json=body) for path, body in requests]

    return asyncio.run(work())


def ids_of(runtime: Runtime, *talks: list[Step], api: Api, **fields: Any) -> list[Any]:
    tools = {"tools": [api.tool]}
    bodies = [api.body(talk, **tools | fields) for talk in talks]
    replies = post(runtime, *[(api.render, body) for body in bodies])
    assert [reply.status_code for reply in replies] == [200] * len(replies), [
        reply.text for reply in replies
    ]
    return [reply.json()["token_ids"] for reply in replies]


def expected(runtime: Runtime, *messages: m.Message, **options: Any) -> list[int]:
    opening = from_chat_messages([], tools=[WEATHER], conversation_date=DATE)
    return render_messages([*opening, *messages], runtime.tokenizer, **options)


def refused(runtime: Runtime, api: Api, talk: list[Step], **fields: Any) -> str:
    [reply] = post(runtime, (api.path, api.body(talk, **fields)))
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]["message"]
