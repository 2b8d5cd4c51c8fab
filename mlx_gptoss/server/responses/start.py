"""Build the live response of a job whose answer has just started."""

from mlx_gptoss.api.responses.initial_reply import initial_reply, wants_summary
from mlx_gptoss.api.responses.reply import ResponseBuilder
from mlx_gptoss.api.responses.request import (
    ResponsesRequestReader,
    wants_encrypted_reasoning,
    wants_logprobs,
)
from mlx_gptoss.api.responses.wire import ResponsesRequest
from mlx_gptoss.server.responses.registry import LiveResponse
from mlx_gptoss.server.service import Job, Service


def start_response(
    conversation: ResponsesRequestReader, job: Job, service: Service
) -> LiveResponse:
    """Return the response for a job whose answer has just started."""
    request = conversation.request
    asked = conversation.conversation_request
    assert isinstance(request, ResponsesRequest) and asked is not None
    stored = request.store is not False and service.responses.store is not None
    echoes = conversation.tool_echoes
    builder = ResponseBuilder(
        initial_reply(request, asked, echoes, job.model, stored=stored),
        text_tools={tool.name for tool in asked.tools if tool.takes_text},
        grammar_tools={tool.name for tool in asked.tools if tool.grammar},
        names=conversation.tools.names,
        sealed=wants_encrypted_reasoning(request),
        summarized=wants_summary(request),
        reasoning_events=service.settings.reasoning_events,
    )
    return LiveResponse(
        job.turn,
        builder,
        job.runtime.tokenizer if wants_logprobs(request) else None,
        conversation.items,
        stored,
        asked.continues_answer,
    )
