"""`/v1/completions`: a prompt continued as it stands."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.completions.completions import (
    Manner,
    chunks,
    prompts_of,
    whole_reply,
)
from mlx_gptoss.api.completions.wire import CompletionReply, CompletionRequest
from mlx_gptoss.api.generation import Turn
from mlx_gptoss.api.ignored import ignored
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.stream import DONE, sse

router = APIRouter(tags=["completions"], route_class=JsonBodyRoute)


@router.post("/v1/completions", response_model=CompletionReply, responses=ERRORS)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt, whole or as a stream of chunks."""
    service = Service.of(request)
    make = partial(prompts_of, body, settings=service.settings)
    job = await service.start_prompts(request, body.model, make)
    manner = Manner.of(body, job.model, job.runtime)
    headers = ignored(body.unknown)
    if body.stream:
        return service.stream(job, frames(job.turns, manner), headers)
    return await service.reply(request, job, whole_reply(job.turns, manner), headers)


async def frames(turns: Sequence[Turn], manner: Manner) -> AsyncIterator[bytes]:
    async for chunk in chunks(turns, manner):
        yield sse(chunk.json_text())
    yield DONE
