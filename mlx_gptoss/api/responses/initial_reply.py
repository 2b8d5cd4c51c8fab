"""Write the response object of a request, before the answer begins."""

import time
from typing import Any

from mlx_gptoss.api.prompt import ConversationRequest
from mlx_gptoss.api.responses.reply_items import new_id
from mlx_gptoss.api.responses.wire import (
    ResponseReply,
    ResponsesRequest,
    ResponsesTool,
)
from mlx_gptoss.api.wire import JsonObject

PLAIN_TEXT: JsonObject = {"format": {"type": "text"}}
SUMMARIES = ("auto", "concise", "detailed")


def initial_reply(
    request: ResponsesRequest,
    conversation_request: ConversationRequest,
    tool_echoes: list[JsonObject],
    model: str,
    *,
    stored: bool,
) -> ResponseReply:
    """Return a response `in_progress`, with the options that apply to it."""
    params = conversation_request.params
    effort = request.reasoning.effort if request.reasoning else None
    return ResponseReply(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        model=model,
        output=[],
        parallel_tool_calls=conversation_request.constraints.parallel_tool_calls,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning={
            "effort": effort or "medium",
            "summary": requested_summary(request),
        },
        safety_identifier=request.safety_identifier,
        service_tier="default",
        store=stored,
        temperature=params.temperature,
        text=text_options(request),
        tool_choice=request.tool_choice or "auto",
        tools=tool_echoes,
        top_logprobs=request.top_logprobs or 0,
        top_p=params.top_p,
        truncation=request.truncation or "disabled",
        user=request.user,
        metadata=request.metadata or {},
    )


def text_options(request: ResponsesRequest) -> JsonObject:
    """Return the `text` of a reply; a `json_schema` format has all its fields."""
    requested = request.text.model_dump(exclude_none=True) if request.text else {}
    text = PLAIN_TEXT | requested
    text_format: dict[str, Any] = text["format"]
    if text_format.get("type") != "json_schema":
        return text
    strict = bool(text_format.get("strict"))
    return text | {"format": {"description": None, **text_format, "strict": strict}}


def requested_summary(request: ResponsesRequest) -> str | None:
    """Return the requested summary, perhaps by the older name of the field."""
    reasoning = request.reasoning
    return (reasoning.summary or reasoning.generate_summary) if reasoning else None


def wants_summary(request: ResponsesRequest) -> bool:
    return requested_summary(request) in SUMMARIES


def echo_tool(tool: ResponsesTool) -> JsonObject:
    """Return a tool as the reply repeats it; a function has all its fields."""
    fields = tool.model_dump(exclude_unset=True)
    if tool.type != "function":
        return fields
    defaults = {"description": None, "parameters": None}
    return defaults | fields | {"strict": bool(tool.strict)}
