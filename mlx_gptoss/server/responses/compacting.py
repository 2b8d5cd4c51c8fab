"""Summaries of conversations: written by the model, as an answer of its own."""

from dataclasses import replace
from functools import partial

from starlette.requests import Request

from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.responses.compaction import (
    compaction_item,
    summary_request,
    threshold,
)
from mlx_gptoss.api.responses.request import ResponsesRequestReader
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.events import Answer
from mlx_gptoss.server.service import Job, Service
from mlx_gptoss.server.stream import while_connected


async def compact_if_due(
    question: ResponsesRequestReader, request: Request, service: Service
) -> None:
    """Summarize the conversation of a question once it is as long as it says.

    Without a summary, because the model wrote none, it goes on as it is.
    """
    body, settings = question.request, service.settings
    if getattr(body, "context_management", None) is None:
        return
    make = partial(question.read, settings=settings)
    _, due = await service.inspect(request, body.model, make, partial(is_due, question))
    if not due:
        return
    job = await start_summary(question, request, service)
    try:
        summary = await while_connected(request, read_summary(job))
    finally:
        await job.close()
    if summary:
        question.compaction = compaction_item(summary)


def is_due(
    question: ResponsesRequestReader,
    conversation: ConversationRequest,
    runtime: Runtime,
) -> bool:
    most = threshold(question.request, runtime.longest_sequence)
    return most is not None and len(conversation.render_any_length(runtime)) >= most


async def start_summary(
    question: ResponsesRequestReader, request: Request, service: Service
) -> Job:
    """Ask the model for the summary of a conversation."""

    def make(runtime: Runtime) -> ConversationRequest:
        asked = summary_request(question.request, runtime.longest_sequence)
        return replace(question, request=asked).read(runtime, service.settings)

    return await service.start(request, question.request.model, make)


async def read_summary(job: Job) -> str:
    """Read a summary to its end; empty if the model wrote none."""
    pieces: list[str] = []
    async for parsed in job.turn:
        pieces += [one.text for one in parsed.events if isinstance(one, Answer)]
    return "".join(pieces).strip()
