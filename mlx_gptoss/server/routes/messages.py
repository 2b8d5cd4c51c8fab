"""Anthropic's `/v1/messages` and `/v1/messages/count_tokens`; `/v1/messages/render`."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.chat.wire import RenderedPrompt
from mlx_gptoss.api.errors import ApiError, anthropic_body
from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.api.messages.reply import Event, MessageBuilder, new_message
from mlx_gptoss.api.messages.request import MessagesConversation, fields_without_effect
from mlx_gptoss.api.messages.wire import (
    AnthropicErrorReply,
    CountTokensRequest,
    MessagesReply,
    MessagesRequest,
    RenderMessageRequest,
    StopReason,
    TokenCount,
)
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.engine.outputs import STOP, TOOL_CALLS
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes.chat import count_prompt_tokens, render_reply
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.stream import sse_json

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": AnthropicErrorReply, "description": "The request is invalid"},
    "5XX": {"model": AnthropicErrorReply, "description": "The server failed"},
}
router = APIRouter(tags=["messages"], responses=ERRORS, route_class=JsonBodyRoute)


@router.post("/v1/messages", response_model=MessagesReply)
async def create_message(body: MessagesRequest, request: Request) -> Response:
    """Answer a conversation, whole or as a stream of events."""
    service = Service.of(request)
    question = MessagesConversation(body, service.restore)
    ask = partial(question.ask, settings=service.settings)
    job = await service.start(request, body.model, ask)
    output = MessageBuilder(
        new_message(job.model),
        thinking=question.shows_thinking,
        omitted=question.omits_thinking,
    )
    headers = ignored_headers(question, job.ask)
    if body.stream:
        said = frames(job.turn, output)
        return service.stream(job, said, headers, error_frame=error_frame)
    return await service.reply(request, job, whole_message(job.turn, output), headers)


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountTokensRequest, request: Request) -> TokenCount:
    """Count the prompt tokens of a request."""
    service = Service.of(request)
    question = MessagesConversation(body, service.restore)
    make = partial(question.ask, settings=service.settings)
    _, tokens = await service.inspect(request, body.model, make, count_prompt_tokens)
    return TokenCount(input_tokens=tokens)


@router.post("/v1/messages/render", response_model=RenderedPrompt)
async def render_message(body: RenderMessageRequest, request: Request) -> Response:
    """Return the exact prompt that a request renders to."""
    service = Service.of(request)
    question = MessagesConversation(body, service.restore)
    make = partial(question.ask, settings=service.settings)
    ask, reply = await service.inspect(request, body.model, make, render_reply)
    return json_reply(reply, ignored_headers(question, ask))


async def events(turn: AnswerStream, output: MessageBuilder) -> AsyncIterator[Event]:
    """Yield all events of a stream."""
    for event in output.begin(turn.usage):
        yield event
    async for heard in turn:
        for event in output.feed(heard.events):
            yield event
    for event in output.end(stop_reason(turn), turn.reader.stop_found, turn.usage):
        yield event


async def whole_message(turn: AnswerStream, output: MessageBuilder) -> MessagesReply:
    """Run a turn to its end and return the message."""
    async for _ in events(turn, output):
        pass
    return output.reply


async def frames(turn: AnswerStream, output: MessageBuilder) -> AsyncIterator[bytes]:
    async for event in events(turn, output):
        yield sse_json(event, event["type"])


def error_frame(error: ApiError) -> bytes:
    return sse_json(anthropic_body(error), "error")


def stop_reason(turn: AnswerStream) -> StopReason:
    """Return the `stop_reason` of a finished turn."""
    if turn.finish_reason == TOOL_CALLS:
        return "tool_use"
    if turn.finish_reason == STOP:
        return "end_turn" if turn.reader.stop_found is None else "stop_sequence"
    most, used = turn.prompt.params.max_tokens, turn.usage.completion_tokens
    full = most is not None and used >= most
    cut = full or (turn.stats is not None and turn.stats.ended_in_loop)
    return "max_tokens" if cut else "model_context_window_exceeded"


def ignored_headers(
    question: MessagesConversation, ask: ConversationRequest
) -> dict[str, str]:
    """Return the header that lists ignored fields and tools."""
    return ignored_header(
        fields_without_effect(question.request), ask.passed_over, ask.hidden
    )
