"""`/v1/chat/completions` and `/v1/chat/render`."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.chat.reply import ChatReplyOptions, build_reply, stream_chunks
from mlx_gptoss.api.chat.request import read_request
from mlx_gptoss.api.chat.wire import ChatCompletion, ChatRequest
from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.wire import RenderedPrompt
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.stream import DONE, sse

router = APIRouter(tags=["chat"], route_class=JsonBodyRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, whole or as a stream of chunks."""
    service = Service.of(request)
    settings = service.settings
    make = partial(read_request, body, settings=settings, restore=service.restore)
    job = await service.start(request, body.model, make)
    reply_options = ChatReplyOptions.of(body, job.model, job.runtime, settings)
    headers = ignored_headers(body, job.conversation)
    if body.stream:
        return service.stream(job, frames(job.answers, reply_options), headers)
    return await service.reply(
        request, job, build_reply(job.answers, reply_options), headers
    )


@router.post("/v1/chat/render", response_model=RenderedPrompt, responses=ERRORS)
async def chat_render(body: ChatRequest, request: Request) -> Response:
    """Return the exact prompt that a request renders to."""
    service = Service.of(request)
    make = partial(
        read_request, body, settings=service.settings, restore=service.restore
    )
    conversation, reply = await service.inspect(request, body.model, make, render_reply)
    return json_reply(reply, ignored_headers(body, conversation))


def render_reply(conversation: ConversationRequest, runtime: Runtime) -> RenderedPrompt:
    """Render the prompt of a request as text and token ids."""
    ids = conversation.render_any_length(runtime)
    text = runtime.tokenizer.decode(ids)
    return RenderedPrompt(prompt=text, token_ids=ids, prompt_tokens=len(ids))


async def frames(
    answers: Sequence[AnswerStream], reply_options: ChatReplyOptions
) -> AsyncIterator[bytes]:
    async for chunk in stream_chunks(answers, reply_options):
        yield sse(chunk.json_text())
    yield DONE


def count_prompt_tokens(conversation: ConversationRequest, runtime: Runtime) -> int:
    """Return the number of prompt tokens of a request."""
    return len(conversation.render_any_length(runtime))


def ignored_headers(
    body: ChatRequest, conversation: ConversationRequest
) -> dict[str, str]:
    """Return the header that lists ignored fields and tools."""
    return ignored_header(
        body.ignored_fields, conversation.ignored_tools, conversation.hidden_parts
    )
