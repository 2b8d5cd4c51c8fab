"""`/v1/completions`: continue a raw prompt."""

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.completions.reply import (
    CompletionReplyOptions,
    build_reply,
    stream_chunks,
)
from mlx_gptoss.api.completions.request import read_prompts
from mlx_gptoss.api.completions.wire import CompletionReply, CompletionRequest
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Job, Service
from mlx_gptoss.server.stream import openai_frames

router = APIRouter(tags=["completions"], route_class=JsonBodyRoute)


@router.post("/v1/completions", response_model=CompletionReply, responses=ERRORS)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt, whole or as a stream of chunks."""
    service = Service.of(request)
    job, reply_options, headers = await start_completions(body, request)
    if body.stream:
        chunks = stream_chunks(job.answers, reply_options)
        return service.stream(job, openai_frames(chunks), headers)
    return await service.reply(
        request, job, build_reply(job.answers, reply_options), headers
    )


async def start_completions(
    body: CompletionRequest, request: Request
) -> tuple[Job, CompletionReplyOptions, dict[str, str]]:
    """Start raw completions; return also how to write them, and the headers."""
    service = Service.of(request)
    make = partial(read_prompts, body, settings=service.settings)
    job = await service.start_prompts(request, body.model, make)
    reply_options = CompletionReplyOptions.of(body, job.model, job.runtime)
    return job, reply_options, ignored_header(body.ignored_fields)
