"""Steps through `/v1/chat/completions`, which most editors and agents use."""

import json
from typing import Any

from mlx_gptoss.diagnostics.agents.received import (
    InvalidReply,
    ReceivedCompletion,
    require,
    validate,
)
from mlx_gptoss.diagnostics.agents.steps.prompts import (
    ASK,
    CITY,
    DESCRIPTION,
    HELLO,
    MAX_TOKENS,
    RESULT,
    TOOL,
    Body,
    city_of,
    non_empty,
    user_message,
)
from mlx_gptoss.diagnostics.agents.streams import assemble_chat
from mlx_gptoss.diagnostics.http_client import HttpClient, Refused

CHAT = "/v1/chat/completions"
NAME = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 40}},
    "required": ["name"],
    "additionalProperties": False,
}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": TOOL, "description": DESCRIPTION, "parameters": CITY},
}


def _chat(model: str, *messages: Body, **more: Any) -> Body:
    """Return a request body; greedy, so that checks are reproducible."""
    return {
        "model": model,
        "messages": list(messages),
        "max_completion_tokens": MAX_TOKENS,
        "reasoning_effort": "low",
        "temperature": 0,
        **more,
    }


def _stream_chat(client: HttpClient, body: Body) -> ReceivedCompletion:
    more = {"stream": True, "stream_options": {"include_usage": True}}
    return assemble_chat(client.stream(CHAT, body | more))


def plain(client: HttpClient, model: str) -> str:
    """Ask a question."""
    reply = validate(
        ReceivedCompletion, client.post(CHAT, _chat(model, user_message(HELLO)))
    )
    return non_empty(reply.choices[0].message.content)


def streamed(client: HttpClient, model: str) -> str:
    """Ask a question, streamed."""
    reply = _stream_chat(client, _chat(model, user_message(HELLO)))
    return non_empty(reply.choices[0].message.content)


def tool(client: HttpClient, model: str) -> str:
    """Stream a tool call, return its result, read the answer."""
    asked = user_message(ASK)
    reply = _stream_chat(client, _chat(model, asked, tools=[CHAT_TOOL]))
    require(reply.choices[0].finish_reason == "tool_calls", "no call was made")
    message = reply.choices[0].message
    calls = message.tool_calls or []
    require(len(calls) == 1, f"{len(calls)} calls where one was expected")
    city = city_of(calls[0].function.name, calls[0].function.arguments)
    back = message.model_dump(exclude_none=True) | {"content": message.content}
    result = {"role": "tool", "tool_call_id": calls[0].id, "content": RESULT}
    body = _chat(model, asked, back, result, tools=[CHAT_TOOL])
    last = validate(ReceivedCompletion, client.post(CHAT, body))
    return f"{TOOL}({city}) -> {non_empty(last.choices[0].message.content)}"


def forced(client: HttpClient, model: str) -> str:
    """Force a tool call with `tool_choice`."""
    choice = {"type": "function", "function": {"name": TOOL}}
    body = _chat(model, user_message(HELLO), tools=[CHAT_TOOL], tool_choice=choice)
    message = validate(ReceivedCompletion, client.post(CHAT, body)).choices[0].message
    require(message.tool_calls, "no call was made")
    function = (message.tool_calls or [])[0].function
    return f"{TOOL}({city_of(function.name, function.arguments)})"


def schema(client: HttpClient, model: str) -> str:
    """Constrain the answer by a JSON schema."""
    form = {"name": "person", "schema": NAME, "strict": True}
    form = {"type": "json_schema", "json_schema": form}
    body = _chat(model, user_message("My name is Maria."), response_format=form)
    content = (
        validate(ReceivedCompletion, client.post(CHAT, body)).choices[0].message.content
    )
    return f"{_named(content)}"


def unknown(client: HttpClient, model: str) -> str:
    """Send unknown fields and tool types, which must be ignored."""
    body = _chat(model, user_message(HELLO), tools=[CHAT_TOOL, {"type": "web_search"}])
    body |= {"an_unknown_field": {"a": 1}, "metadata": {"a": "b"}, "user": "me"}
    validate(ReceivedCompletion, client.post(CHAT, body))
    return "accepted"


def wrong(client: HttpClient, model: str) -> str:
    """Send a wrong type, which must be rejected with 400."""
    body = _chat(model, user_message(HELLO)) | {"temperature": "warm"}
    try:
        client.post(CHAT, body)
    except Refused as error:
        require(error.status == 400, f"status {error.status} where 400 was expected")
        return str(error)
    raise InvalidReply("temperature `warm` was accepted")


def _named(content: str | None) -> str:
    found = json.loads(non_empty(content))
    require(set(found) == {"name"}, f"the answer is {content}")
    return str(content)
