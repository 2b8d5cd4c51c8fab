"""Build the response object of a request, before any output."""

import time
from typing import Any

from mlx_gptoss.api.chat.reply_style import ChatReplyOptions
from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.responses.reasoning import wants_summary
from mlx_gptoss.api.responses.reply import ResponseBuilder, new_id
from mlx_gptoss.api.responses.request import (
    ResponsesConversation,
    wants_logprobs,
    wants_sealed,
)
from mlx_gptoss.api.responses.wire import ResponseReply, ResponsesRequest, ResponsesTool
from mlx_gptoss.server.responses.registry import LiveResponse
from mlx_gptoss.server.service import Job, Service

PLAIN_TEXT: dict[str, Any] = {"format": {"type": "text"}}


def start_response(
    question: ResponsesConversation, job: Job, service: Service
) -> LiveResponse:
    """Return the response for a job whose turn has just started."""
    request = question.request
    ask = question.asked
    assert isinstance(request, ResponsesRequest) and ask is not None
    stored = request.store is not False and service.responses.store is not None
    tools = ask.tools
    output = ResponseBuilder(
        initial_reply(request, ask, job.model, stored=stored),
        text_tools={tool.name for tool in tools if tool.takes_text},
        bound_tools={tool.name for tool in tools if tool.grammar},
        names=question.offer.names,
        sealed=wants_sealed(request),
        summarized=wants_summary(requested_summary(request)),
        reasoning_events=service.settings.reasoning_events,
    )
    manner = ChatReplyOptions(
        job.model, job.runtime.tokenizer, logprobs=wants_logprobs(request)
    )
    return LiveResponse(job.turn, output, manner, question.items, stored, ask.begun)


def initial_reply(
    request: ResponsesRequest, ask: ConversationRequest, model: str, *, stored: bool
) -> ResponseReply:
    params, constraints = ask.params, ask.constraints
    given = request.reasoning
    return ResponseReply(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        model=model,
        output=[],
        parallel_tool_calls=constraints.parallel_tool_calls,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning={
            "effort": (given and given.effort) or "medium",
            "summary": requested_summary(request),
        },
        safety_identifier=request.safety_identifier,
        service_tier="default",
        store=stored,
        temperature=params.temperature,
        text=text_options(request),
        tool_choice=request.tool_choice or "auto",
        tools=[echo_tool(one) for one in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=params.top_p,
        truncation=request.truncation or "disabled",
        user=request.user,
        metadata=request.metadata or {},
    )


def text_options(request: ResponsesRequest) -> dict[str, Any]:
    given = request.text.model_dump(exclude_none=True) if request.text else {}
    text = PLAIN_TEXT | given
    form = text["format"]
    if form.get("type") != "json_schema":
        return text
    whole = {"description": None, **form, "strict": bool(form.get("strict"))}
    return text | {"format": whole}


def requested_summary(request: ResponsesRequest) -> str | None:
    """Return the requested reasoning summary, also from the field's older name."""
    given = request.reasoning
    return (given.summary or given.generate_summary) if given else None


def echo_tool(tool: ResponsesTool) -> dict[str, Any]:
    """Return a tool as it was sent; functions with all fields, as in OpenAI's API."""
    given = tool.model_dump(exclude_unset=True)
    if tool.type != "function":
        return given
    missing = {"description": None, "parameters": None} | given
    return missing | {"strict": bool(tool.strict)}
