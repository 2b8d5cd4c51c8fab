"""LM Studio's `/api/v1/chat`: a conversation that the server keeps."""

from collections.abc import AsyncIterator
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.api.lmstudio.chat_reply import StudioChatWriter
from mlx_gptoss.api.lmstudio.chat_request import StudioChatRequest, as_response_request
from mlx_gptoss.api.lmstudio.wire import StudioChatResult
from mlx_gptoss.api.responses.live import LiveResponse
from mlx_gptoss.api.settings import OPENAI
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.responses.registry import ResponseRegistry
from mlx_gptoss.server.responses.start import load_question, start_response
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.stream import StreamFormat, sse_json

router = APIRouter(tags=["lmstudio"], responses=ERRORS, route_class=JsonBodyRoute)


def error_frame(error: ApiError) -> bytes:
    return sse_json({"type": "error", **error.body}, "error")


STREAM = StreamFormat("text/event-stream", error_frame)


@router.post("/api/v1/chat", response_model=StudioChatResult)
async def studio_kept_chat(body: StudioChatRequest, request: Request) -> Response:
    """Answer a message, as the beginning of a chat or the continuation of one."""
    service = Service.of(request)
    asked = as_response_request(body)
    question = await load_question(asked, request, service)
    choice = service.models.resolve(body.model)
    was_loaded = service.models.runtime(choice.model) is not None
    make = partial(question.read, settings=service.settings)
    job = await service.start(request, body.model, make)
    response = service.responses.add(start_response(question, job, service, OPENAI))
    job.on_close(partial(service.responses.remove, response))
    writer = StudioChatWriter(job.model, None if was_loaded else job.load_seconds)
    headers = ignored_header(body.ignored_fields)
    if body.stream:
        told = frames(service.responses, response, writer)
        return service.stream(job, told, headers, form=STREAM)
    whole = result(service.responses, response, writer)
    return await service.reply(request, job, whole, headers)


async def frames(
    registry: ResponseRegistry, response: LiveResponse, writer: StudioChatWriter
) -> AsyncIterator[bytes]:
    async for event in registry.events(response):
        for told in writer.events(event, response.turn):
            yield sse_json(told, told["type"])


async def result(
    registry: ResponseRegistry, response: LiveResponse, writer: StudioChatWriter
) -> StudioChatResult:
    return writer.result(await registry.run_to_end(response), response.turn)
