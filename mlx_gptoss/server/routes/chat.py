"""`/v1/chat/completions` and `/v1/chat/render`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.harmony.openai_chat import hidden_parts
from mlx_gptoss.runtime import Runtime
from mlx_gptoss.server.ask import Ask
from mlx_gptoss.server.chat.asking import ask_of, tools_of
from mlx_gptoss.server.chat.manner import Manner
from mlx_gptoss.server.chat.output import chunks, whole_reply
from mlx_gptoss.server.ignored import ignored
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.schema.chat import ChatRequest
from mlx_gptoss.server.schema.chat_reply import ChatReply, RenderReply
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.settings import Settings
from mlx_gptoss.server.stream import DONE, sse
from mlx_gptoss.server.turn import Turn

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", response_model=ChatReply, responses=ERRORS)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, whole or as a stream of chunks."""
    service = Service.of(request)
    settings = service.settings
    ask = partial(ask_of, body, settings=settings, restore=service.restore)
    job = await service.begin(request, body.model, ask)
    manner = Manner.of(body, job.model, job.runtime, settings)
    headers = passed_over(body, settings)
    if body.stream:
        return service.stream(job, frames(job.turns, manner), headers)
    return await service.whole(request, job, whole_reply(job.turns, manner), headers)


@router.post("/v1/chat/render", response_model=RenderReply, responses=ERRORS)
async def chat_render(body: ChatRequest, request: Request) -> Response:
    """Show the exact prompt of a request: what the model would read."""
    service = Service.of(request)
    async with service.models.lease(body.model) as runtime:
        ask = await asyncio.to_thread(
            ask_of, body, runtime, service.settings, service.restore
        )
        reply = render_reply(ask, runtime)
    return json_reply(reply, passed_over(body, service.settings))


def render_reply(ask: Ask, runtime: Runtime) -> RenderReply:
    """What the model would read."""
    ids = ask.rendered(runtime.tokenizer)
    text = runtime.tokenizer.decode(ids)
    return RenderReply(prompt=text, token_ids=ids, prompt_tokens=len(ids))


async def frames(turns: Sequence[Turn], manner: Manner) -> AsyncIterator[bytes]:
    async for chunk in chunks(turns, manner):
        yield sse(chunk.json_text())
    yield DONE


def passed_over(body: ChatRequest, settings: Settings) -> dict[str, str]:
    """The header that names what has no effect."""
    others = tools_of(body, settings).ignored
    return ignored(body.unknown, others, hidden_parts(body.plain_messages))
