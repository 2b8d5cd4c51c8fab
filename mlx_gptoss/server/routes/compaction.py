"""`/v1/responses/compact`: replace a long conversation by a summary of it."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.refused import RefusedAnswer
from mlx_gptoss.api.responses.compaction import (
    CompactReply,
    CompactRequest,
    compact_reply,
    compacted_window,
    no_summary,
    summary_request,
)
from mlx_gptoss.api.responses.reply import response_usage
from mlx_gptoss.api.responses.request import ResponsesRequestReader
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.responses.compacting import read_summary
from mlx_gptoss.server.responses.start import ignored_headers, load_question
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Job, Service

router = APIRouter(tags=["responses"], responses=ERRORS, route_class=JsonBodyRoute)


@router.post("/v1/responses/compact", response_model=CompactReply)
async def compact_conversation(body: CompactRequest, request: Request) -> Response:
    """Summarize a conversation; the output is the beginning of the next input."""
    service = Service.of(request)
    question = await load_question(body, request, service)

    def make(runtime: Runtime) -> ConversationRequest:
        question.request = summary_request(body, runtime.longest_sequence)
        return question.read(runtime, service.settings)

    job = await service.start(request, body.model, make)
    return await service.reply(
        request, job, compact(job, question, service), ignored_headers(question)
    )


async def compact(
    job: Job, question: ResponsesRequestReader, service: Service
) -> CompactReply:
    """Read the summary to its end and return the window that it makes."""
    summary = await read_summary(job)
    if isinstance(job.turn, RefusedAnswer):
        raise ApiError(400, job.turn.reason, "content_filter", "input")
    if not summary:
        raise no_summary()
    asked = len(question.items) - 1  # the last one asks for the summary
    items = [*question.earlier, *question.items[:asked]]
    tokenizer = job.runtime.tokenizer
    window = await service.pools.run(
        job.conversation.characters,
        compacted_window,
        items,
        summary,
        lambda text: len(tokenizer.encode(text)),
        job.runtime.longest_sequence,
    )
    return compact_reply(window, response_usage(job.turn.usage))
