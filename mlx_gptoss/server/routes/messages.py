"""Anthropic's `/v1/messages` and `/v1/messages/count_tokens`; `/v1/messages/render`."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import anthropic_body
from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.api.messages.reply import (
    MessageBuilder,
    build_reply,
    new_message,
    stream_events,
)
from mlx_gptoss.api.messages.request import (
    fields_without_effect,
    omits_thinking,
    read_request,
    shows_thinking,
)
from mlx_gptoss.api.messages.wire import (
    AnthropicErrorReply,
    CountTokensRequest,
    MessagesReply,
    MessagesRequest,
    RenderMessageRequest,
    TokenCount,
)
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.wire import RenderedPrompt
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes.chat import count_prompt_tokens, render_reply
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.stream import StreamFormat, sse_json

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": AnthropicErrorReply, "description": "The request is invalid"},
    "5XX": {"model": AnthropicErrorReply, "description": "The server failed"},
}
STREAM = StreamFormat(
    "text/event-stream", lambda error: sse_json(anthropic_body(error), "error")
)
router = APIRouter(tags=["messages"], responses=ERRORS, route_class=JsonBodyRoute)


@router.post("/v1/messages", response_model=MessagesReply)
async def create_message(body: MessagesRequest, request: Request) -> Response:
    """Answer a conversation, whole or as a stream of events."""
    service = Service.of(request)
    make = partial(
        read_request, body, settings=service.settings, restore=service.restore
    )
    job = await service.start(request, body.model, make)
    output = MessageBuilder(
        new_message(job.model),
        thinking=shows_thinking(body),
        omitted=omits_thinking(body),
    )
    headers = ignored_headers(body, job.conversation)
    if body.stream:
        events = frames(job.turn, output)
        return service.stream(job, events, headers, form=STREAM)
    return await service.reply(request, job, build_reply(job.turn, output), headers)


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountTokensRequest, request: Request) -> TokenCount:
    """Count the prompt tokens of a request."""
    service = Service.of(request)
    make = partial(
        read_request, body, settings=service.settings, restore=service.restore
    )
    _, tokens = await service.inspect(request, body.model, make, count_prompt_tokens)
    return TokenCount(input_tokens=tokens)


@router.post("/v1/messages/render", response_model=RenderedPrompt)
async def render_message(body: RenderMessageRequest, request: Request) -> Response:
    """Return the exact prompt that a request renders to."""
    service = Service.of(request)
    make = partial(
        read_request, body, settings=service.settings, restore=service.restore
    )
    conversation, reply = await service.inspect(request, body.model, make, render_reply)
    return json_reply(reply, ignored_headers(body, conversation))


async def frames(turn: AnswerStream, output: MessageBuilder) -> AsyncIterator[bytes]:
    async for event in stream_events(turn, output):
        yield sse_json(event, event["type"])


def ignored_headers(
    body: CountTokensRequest, conversation: ConversationRequest
) -> dict[str, str]:
    """Return the header that lists ignored fields and tools."""
    return ignored_header(
        fields_without_effect(body),
        conversation.ignored_tools,
        conversation.hidden_parts,
    )
