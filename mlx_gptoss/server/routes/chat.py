"""`/v1/chat/completions` and `/v1/chat/render`."""

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.chat.reply import ChatReplyOptions, build_reply, stream_chunks
from mlx_gptoss.api.chat.request import read_request
from mlx_gptoss.api.chat.wire import ChatCompletion, ChatRequest
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.wire import RenderedPrompt
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Job, Service, json_reply
from mlx_gptoss.server.stream import openai_frames

router = APIRouter(tags=["chat"], route_class=JsonBodyRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, whole or as a stream of chunks."""
    service = Service.of(request)
    job, reply_options, headers = await start_chat(body, request)
    if body.stream:
        chunks = stream_chunks(job.answers, reply_options)
        return service.stream(job, openai_frames(chunks), headers)
    return await service.reply(
        request, job, build_reply(job.answers, reply_options), headers
    )


async def start_chat(
    body: ChatRequest, request: Request
) -> tuple[Job, ChatReplyOptions, dict[str, str]]:
    """Start the answers to a chat; return also how to write them, and the headers."""
    service = Service.of(request)
    settings = service.settings
    make = partial(read_request, body, settings=settings, restore=service.restore)
    job = await service.start(request, body.model, make)
    reply_options = ChatReplyOptions.of(body, job.model, job.runtime, settings)
    return job, reply_options, ignored_headers(body, job.conversation)


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
