"""`/v1/chat/completions` and `/v1/chat/render`."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.chat.reply import chunks, whole_reply
from mlx_gptoss.api.chat.reply_style import Manner
from mlx_gptoss.api.chat.request import ask_of
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.chat.wire_reply import ChatReply, RenderReply
from mlx_gptoss.api.generation import Turn
from mlx_gptoss.api.ignored import ignored
from mlx_gptoss.api.prompt import Ask
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.stream import DONE, sse

router = APIRouter(tags=["chat"], route_class=JsonBodyRoute)


@router.post("/v1/chat/completions", response_model=ChatReply, responses=ERRORS)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, whole or as a stream of chunks."""
    service = Service.of(request)
    settings = service.settings
    ask = partial(ask_of, body, settings=settings, restore=service.restore)
    job = await service.start(request, body.model, ask)
    manner = Manner.of(body, job.model, job.runtime, settings)
    headers = ignored_headers(body, job.ask)
    if body.stream:
        return service.stream(job, frames(job.turns, manner), headers)
    return await service.reply(request, job, whole_reply(job.turns, manner), headers)


@router.post("/v1/chat/render", response_model=RenderReply, responses=ERRORS)
async def chat_render(body: ChatRequest, request: Request) -> Response:
    """Show the exact prompt of a request: what the model would read."""
    service = Service.of(request)
    make = partial(ask_of, body, settings=service.settings, restore=service.restore)
    ask, reply = await service.inspect(request, body.model, make, render_reply)
    return json_reply(reply, ignored_headers(body, ask))


def render_reply(ask: Ask, runtime: Runtime) -> RenderReply:
    """What the model would read."""
    ids = ask.counted(runtime)
    text = runtime.tokenizer.decode(ids)
    return RenderReply(prompt=text, token_ids=ids, prompt_tokens=len(ids))


async def frames(turns: Sequence[Turn], manner: Manner) -> AsyncIterator[bytes]:
    async for chunk in chunks(turns, manner):
        yield sse(chunk.json_text())
    yield DONE


def count_prompt_tokens(ask: Ask, runtime: Runtime) -> int:
    """How many tokens the model would read."""
    return len(ask.counted(runtime))


def ignored_headers(body: ChatRequest, ask: Ask) -> dict[str, str]:
    """The header that names what has no effect."""
    return ignored(body.unknown, ask.passed_over, ask.hidden)
