"""LM Studio's REST API: `/api/v0`, and the models of `/api/v1`."""

import time
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.chat.reply import build_reply as build_chat
from mlx_gptoss.api.chat.reply import stream_chunks as stream_chat
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.completions.reply import build_reply, stream_chunks
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.lmstudio import wire
from mlx_gptoss.api.lmstudio.reply import (
    ARCHITECTURE,
    FORMAT,
    as_studio,
    stream_as_studio,
    studio_fields,
)
from mlx_gptoss.api.wire import ReplyModel
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.model_facts import ModelFacts
from mlx_gptoss.server.models import ModelChoice, Models
from mlx_gptoss.server.routes import ERRORS, refuse_by_name
from mlx_gptoss.server.routes.chat import start_chat
from mlx_gptoss.server.routes.completions import start_completions
from mlx_gptoss.server.service import Job, Service
from mlx_gptoss.server.stream import openai_frames, while_connected

TOOL_USE = "tool_use"
EFFORTS = ["off", "low", "medium", "high"]
MXFP4, MXFP4_BITS = "MXFP4", 4.25
REFUSED = {  # route and method to the reason
    ("/api/v0/embeddings", "POST"): "gpt-oss has no embeddings: it generates text only",
    ("/api/v1/models/download", "POST"): "models are not downloaded over HTTP: on the "
    "server's machine, `mlx-gptoss pull NAME`",
}
router = APIRouter(tags=["lmstudio"], responses=ERRORS, route_class=JsonBodyRoute)
Studio = TypeVar("Studio", bound=wire.StudioFields)


@router.post("/api/v0/chat/completions", response_model=wire.StudioChatCompletion)
async def studio_chat(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation as `/v1/chat/completions` does, with statistics."""
    service = Service.of(request)
    job, options, headers = await start_chat(body, request)
    model = await model_info(service.models, job)
    if body.stream:
        chunks = stream_chat(job.answers, options)
        more = stream_as_studio(wire.StudioChatChunk, chunks, job.turn, model)
        return service.stream(job, openai_frames(more), headers)
    reply = build_chat(job.answers, options)
    whole = whole_reply(wire.StudioChatCompletion, reply, job.turn, model)
    return await service.reply(request, job, whole, headers)


@router.post("/api/v0/completions", response_model=wire.StudioCompletion)
async def studio_completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt as `/v1/completions` does, with statistics."""
    service = Service.of(request)
    job, options, headers = await start_completions(body, request)
    model = await model_info(service.models, job)
    if body.stream:
        chunks = stream_chunks(job.answers, options)
        more = stream_as_studio(wire.StudioCompletion, chunks, job.turn, model)
        return service.stream(job, openai_frames(more), headers)
    reply = build_reply(job.answers, options)
    whole = whole_reply(wire.StudioCompletion, reply, job.turn, model)
    return await service.reply(request, job, whole, headers)


@router.get("/api/v0/models", response_model_exclude_unset=True)
async def studio_models(request: Request) -> wire.StudioModelList:
    """List the models that requests may name, loaded or not, and their adapters."""
    models = Service.of(request).models
    await models.refresh_adapters()
    data = [await describe(models, choice) for choice in models.choices]
    return wire.StudioModelList(object="list", data=data)


@router.get("/api/v0/models/{model:path}", response_model_exclude_unset=True)
async def studio_model(model: str, request: Request) -> wire.StudioModel:
    """Describe one model, or one with an adapter."""
    models = Service.of(request).models
    await models.refresh_adapters()
    choice = next((one for one in models.choices if one.name == model), None)
    if choice is None:
        raise models.not_found(model)
    return await describe(models, choice)


@router.get("/api/v1/models")
async def studio_keys(request: Request) -> wire.StudioKeyList:
    """List the models that requests may name, with their loaded instances."""
    models = Service.of(request).models
    await models.refresh_adapters()
    found = [await describe_key(models, choice) for choice in models.choices]
    return wire.StudioKeyList(models=found)


@router.post("/api/v1/models/load", response_model_exclude_unset=True)
async def studio_load(
    body: wire.StudioLoadRequest, request: Request
) -> wire.StudioLoaded:
    """Load a model as its operator set it up; say how long that took."""
    models, started = Service.of(request).models, time.monotonic()
    choice = models.resolve(body.model)
    await while_connected(request, models.load(choice.model))
    config = {}
    if body.echo_load_config:
        facts = await models.facts(choice.model)
        length = models.context_length(choice.model, facts)
        config = {"load_config": wire.StudioInstanceConfig(context_length=length)}
    return wire.StudioLoaded(
        type="llm",
        instance_id=choice.name,
        load_time_seconds=time.monotonic() - started,
        status="loaded",
        **config,
    )


@router.post("/api/v1/models/unload")
async def studio_unload(
    body: wire.StudioUnload, request: Request
) -> wire.StudioUnloaded:
    """Unload a model, once its running requests have ended."""
    models = Service.of(request).models
    choice = models.resolve(body.instance_id)
    await models.unload(choice.model)
    return wire.StudioUnloaded(instance_id=choice.name)


refuse_by_name(router, REFUSED)


async def whole_reply(
    form: type[Studio],
    reply: Coroutine[Any, Any, ReplyModel],
    answer: AnswerStream,
    model: wire.StudioModelInfo,
) -> Studio:
    return as_studio(form, await reply, studio_fields(answer, model))


async def model_info(models: Models, job: Job) -> wire.StudioModelInfo:
    facts = await models.facts(models.resolve(job.model).model)
    return wire.StudioModelInfo(
        arch=ARCHITECTURE,
        quant=facts.storage,
        format=FORMAT,
        context_length=job.runtime.longest_sequence,
    )


async def describe(models: Models, choice: ModelChoice) -> wire.StudioModel:
    facts, runtime = await models.facts(choice.model), models.runtime(choice.model)
    state: Literal["loaded", "not-loaded"] = "loaded" if runtime else "not-loaded"
    loaded: dict[str, Any] = {}
    if runtime is not None:
        loaded["loaded_context_length"] = runtime.longest_sequence
    return wire.StudioModel(
        id=choice.name,
        object="model",
        type="llm",
        publisher=publisher(choice),
        arch=ARCHITECTURE,
        compatibility_type=FORMAT,
        quantization=facts.storage,
        state=state,
        max_context_length=models.context_length(choice.model, facts),
        capabilities=[TOOL_USE],
        **loaded,
    )


async def describe_key(models: Models, choice: ModelChoice) -> wire.StudioKey:
    facts, runtime = await models.facts(choice.model), models.runtime(choice.model)
    instances: list[wire.StudioInstance] = []
    if runtime is not None:
        config = wire.StudioInstanceConfig(context_length=runtime.longest_sequence)
        instances.append(wire.StudioInstance(id=choice.name, config=config))
    reasoning = wire.StudioReasoning(allowed_options=EFFORTS, default="medium")
    return wire.StudioKey(
        type="llm",
        publisher=publisher(choice),
        key=choice.name,
        display_name=choice.name.rpartition("/")[2],
        architecture=ARCHITECTURE,
        quantization=quantization(facts),
        size_bytes=facts.bytes,
        params_string=facts.size_label or None,
        loaded_instances=instances,
        max_context_length=models.context_length(choice.model, facts),
        format=FORMAT,
        capabilities=wire.StudioCapabilities(
            vision=False, trained_for_tool_use=True, reasoning=reasoning
        ),
    )


def quantization(facts: ModelFacts) -> wire.StudioQuantization | None:
    """Name the storage of the experts; bits per weight only of OpenAI's format."""
    if not facts.storage:
        return None
    bits = MXFP4_BITS if facts.storage == MXFP4 else None
    return wire.StudioQuantization(name=facts.storage, bits_per_weight=bits)


def publisher(choice: ModelChoice) -> str:
    """Return who published a model by its id; empty if its name does not say."""
    return choice.model.rpartition("/")[0].rpartition("/")[2]
