"""Ollama's `/api/chat` and `/api/generate`."""

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.api.ollama.reply import (
    CHAT_FORM,
    GENERATE_FORM,
    RAW_FORM,
    OllamaReplyOptions,
    ReplyForm,
    build_reply,
    empty_reply,
    stream_lines,
)
from mlx_gptoss.api.ollama.request import read_chat, read_question, read_raw
from mlx_gptoss.api.ollama.wire import (
    OllamaChatReply,
    OllamaChatRequest,
    OllamaErrorReply,
    OllamaGenerateReply,
    OllamaGenerateRequest,
    OllamaGenerationBody,
)
from mlx_gptoss.server.bodies import AnyBodyRoute
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.service import Job, Service, json_reply
from mlx_gptoss.server.stream import JSON_LINES, while_connected

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": OllamaErrorReply, "description": "The request is invalid"},
    "5XX": {"model": OllamaErrorReply, "description": "The server failed"},
}
LATEST = ":latest"  # Ollama's tag of a name without one
router = APIRouter(tags=["ollama"], responses=ERRORS, route_class=AnyBodyRoute)


@router.post("/api/chat", response_model=OllamaChatReply)
async def ollama_chat(body: OllamaChatRequest, request: Request) -> Response:
    """Answer a conversation, as a stream of lines or whole."""
    service = Service.of(request)
    name = served_name(service.models, body.named)
    if not body.messages:
        return await load_or_unload(request, service, name, body, CHAT_FORM)
    make = partial(read_chat, body, settings=service.settings, restore=service.restore)
    job = await service.start(request, name, make)
    tools, hidden = job.conversation.ignored_tools, job.conversation.hidden_parts
    headers = ignored_header(body.ignored_fields, tools, hidden)
    return await send_answer(request, service, job, body, CHAT_FORM, headers)


@router.post("/api/generate", response_model=OllamaGenerateReply)
async def ollama_generate(body: OllamaGenerateRequest, request: Request) -> Response:
    """Answer a question, or continue a raw prompt, as a stream of lines or whole."""
    service = Service.of(request)
    name = served_name(service.models, body.named)
    headers = ignored_header(body.ignored_fields)
    if not body.prompt:
        return await load_or_unload(request, service, name, body, GENERATE_FORM)
    if body.raw:
        read = partial(read_raw, body, settings=service.settings)
        job = await service.start_prompts(request, name, read)
        return await send_answer(request, service, job, body, RAW_FORM, headers)
    make = partial(read_question, body, settings=service.settings)
    job = await service.start(request, name, make)
    return await send_answer(request, service, job, body, GENERATE_FORM, headers)


async def send_answer(
    request: Request,
    service: Service,
    job: Job,
    body: OllamaGenerationBody,
    form: ReplyForm,
    headers: dict[str, str],
) -> Response:
    """Send the answer of a job, and keep its model for as long as the request asks."""
    service.models.keep(job.model, body.keep_alive)
    options = OllamaReplyOptions(
        form,
        job.model,
        job.runtime.tokenizer,
        job.started,
        job.load_seconds,
        logprobs=bool(body.logprobs),
    )
    if body.streams:
        lines = frames(job.turn, options)
        return service.stream(job, lines, headers, form=JSON_LINES)
    return await service.reply(request, job, build_reply(job.turn, options), headers)


async def load_or_unload(
    request: Request,
    service: Service,
    name: str | None,
    body: OllamaGenerationBody,
    form: ReplyForm,
) -> Response:
    """Load a model, or unload it if it shall be kept for no time."""
    started, models = time.monotonic(), service.models
    choice, unloads = models.resolve(name), body.keep_alive == 0
    if unloads:
        await models.unload(choice.model)
    else:
        await while_connected(request, models.load(choice.model))
        models.keep(choice.model, body.keep_alive)
    seconds = 0.0 if unloads else time.monotonic() - started
    reply = empty_reply(
        form, choice.name, unloaded=unloads, started=started, load_seconds=seconds
    )
    return json_reply(reply)


def served_name(models: Models, name: str | None) -> str | None:
    """Return the name that a model is served by: `demo` for `demo:latest`."""
    if name is None or name in [choice.name for choice in models.choices]:
        return name
    return name.removesuffix(LATEST)


async def frames(
    turn: AnswerStream, options: OllamaReplyOptions
) -> AsyncIterator[bytes]:
    async for line in stream_lines(turn, options):
        yield line.json_text().encode() + b"\n"
