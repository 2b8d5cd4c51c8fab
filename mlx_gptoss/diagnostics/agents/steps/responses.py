"""Steps through `/v1/responses`, which Codex and the Agents SDK use."""

from collections.abc import Iterable
from typing import Any

from mlx_gptoss.diagnostics.agents.received import ReceivedResponse, require, validate
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
from mlx_gptoss.diagnostics.agents.streams import assemble_response
from mlx_gptoss.diagnostics.http_client import HttpClient

RESPONSES = "/v1/responses"
RESPONSES_TOOL = {
    "type": "function",
    "name": TOOL,
    "description": DESCRIPTION,
    "parameters": CITY,
    "strict": False,
}
PATCH_TOOL = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files by a patch.",
}


def _response(model: str, asked: Any, **more: Any) -> Body:
    return {
        "model": model,
        "input": asked,
        "max_output_tokens": MAX_TOKENS,
        "reasoning": {"effort": "low"},
        "temperature": 0,
        **more,
    }


def _stream_response(client: HttpClient, body: Body) -> ReceivedResponse:
    return assemble_response(client.stream(RESPONSES, body | {"stream": True}))


def plain(client: HttpClient, model: str) -> str:
    """Ask a question."""
    body = _response(model, HELLO, store=False)
    return non_empty(_text(validate(ReceivedResponse, client.post(RESPONSES, body))))


def streamed(client: HttpClient, model: str) -> str:
    """Ask a question, streamed."""
    return non_empty(
        _text(_stream_response(client, _response(model, HELLO, store=False)))
    )


def tool(client: HttpClient, model: str) -> str:
    """Stream a tool call, append its result to all items, read the answer."""
    asked: list[Any] = [user_message(ASK)]
    more: Body = {"tools": [RESPONSES_TOOL], "store": False}
    first = _stream_response(client, _response(model, asked, **more))
    calls = [item for item in first.output if item.type == "function_call"]
    require(len(calls) == 1, f"{len(calls)} calls where one was expected")
    city = city_of(calls[0].name, calls[0].arguments)
    asked += [item.model_dump(exclude_none=True) for item in first.output]
    result = {"type": "function_call_output", "call_id": calls[0].call_id}
    asked.append(result | {"output": RESULT})
    last = validate(
        ReceivedResponse, client.post(RESPONSES, _response(model, asked, **more))
    )
    return f"{TOOL}({city}) -> {non_empty(_text(last))}"


def previous(client: HttpClient, model: str) -> str:
    """Continue a stored response."""
    body = _response(model, "My name is Maria.", store=True)
    first = validate(ReceivedResponse, client.post(RESPONSES, body))
    body = _response(model, "What is my name?", previous_response_id=first.id)
    answer = non_empty(_text(validate(ReceivedResponse, client.post(RESPONSES, body))))
    require("Maria" in answer, f"the first turn was forgotten: {answer}")
    return answer


def custom(client: HttpClient, model: str) -> str:
    """Call a custom (freeform) tool like Codex's apply_patch."""
    choice = {"type": "custom", "name": "apply_patch"}
    body = _response(model, "Add a file.", tools=[PATCH_TOOL], tool_choice=choice)
    reply = _stream_response(client, body | {"max_output_tokens": 200, "store": False})
    calls = [item for item in reply.output if item.type == "custom_tool_call"]
    require(calls, "no custom call was made")
    return f"{calls[0].name}: {len(calls[0].input)} characters"


def codex(client: HttpClient, model: str) -> str:
    """Send Codex's first requests: tool types and fields of its own."""
    body = {
        "model": model,
        "instructions": "You are a coding agent.",
        "input": [{"type": "message", "role": "user", "content": _parts(HELLO)}],
        "tools": [
            RESPONSES_TOOL,
            PATCH_TOOL,
            {"type": "web_search", "external_web_access": False},
            {"type": "namespace", "name": "mcp__x", "tools": [RESPONSES_TOOL]},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "a",
        "client_metadata": {"a": "b"},
    }
    first = _stream_response(client, body)
    body["input"] += [item.model_dump(exclude_none=True) for item in first.output]
    body["input"].append({"type": "message", "role": "user", "content": _parts(ASK)})
    _stream_response(client, body)
    return "accepted, twice"


def _parts(text: str) -> list[Body]:
    return [{"type": "input_text", "text": text}]


def _text(response: ReceivedResponse) -> str:
    return "".join(_texts(response))


def _texts(response: ReceivedResponse) -> Iterable[str]:
    for item in response.output:
        if item.type == "message":
            yield from (part.text for part in item.content)
