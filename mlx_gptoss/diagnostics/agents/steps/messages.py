"""Steps through `/v1/messages`, which Claude Code uses."""

import json
from typing import Any

from mlx_gptoss.diagnostics.agents.received import (
    ReceivedAnthropicMessage,
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
from mlx_gptoss.diagnostics.agents.streams import assemble_message
from mlx_gptoss.diagnostics.http_client import HttpClient

MESSAGES = "/v1/messages"
MESSAGES_TOOL = {"name": TOOL, "description": DESCRIPTION, "input_schema": CITY}


def _message(model: str, *messages: Body, **more: Any) -> Body:
    return {
        "model": model,
        "max_tokens": MAX_TOKENS,
        "messages": list(messages),
        "temperature": 0,
        **more,
    }


def plain(client: HttpClient, model: str) -> str:
    """Ask a question."""
    body = _message(model, user_message(HELLO))
    return non_empty(
        _blocks(validate(ReceivedAnthropicMessage, client.post(MESSAGES, body)))
    )


def streamed(client: HttpClient, model: str) -> str:
    """Ask a question, streamed."""
    body = _message(model, user_message(HELLO), stream=True)
    return non_empty(_blocks(assemble_message(client.stream(MESSAGES, body))))


def tool(client: HttpClient, model: str) -> str:
    """Stream a tool call, return its result, read the answer."""
    asked = user_message(ASK)
    body = _message(model, asked, tools=[MESSAGES_TOOL], stream=True)
    first = assemble_message(client.stream(MESSAGES, body))
    calls = [block for block in first.content if block.type == "tool_use"]
    require(len(calls) == 1, f"{len(calls)} calls where one was expected")
    require(first.stop_reason == "tool_use", f"stop_reason is {first.stop_reason}")
    city = city_of(calls[0].name, json.dumps(calls[0].input))
    back = {"role": "assistant", "content": first.model_dump()["content"]}
    result = {"type": "tool_result", "tool_use_id": calls[0].id, "content": RESULT}
    after = {"role": "user", "content": [result]}
    body = _message(model, asked, back, after, tools=[MESSAGES_TOOL])
    last = validate(ReceivedAnthropicMessage, client.post(MESSAGES, body))
    return f"{TOOL}({city}) -> {non_empty(_blocks(last))}"


def claude_code(client: HttpClient, model: str) -> str:
    """Send Claude Code's first request: a beta path and fields of its own."""
    cached = {"type": "ephemeral"}
    system = {
        "type": "text",
        "text": "You are a coding agent.",
        "cache_control": cached,
    }
    body = _message(
        model,
        {"role": "user", "content": [{"type": "text", "text": HELLO}]},
        system=[system],
        tools=[MESSAGES_TOOL | {"cache_control": cached}],
        thinking={"type": "enabled", "budget_tokens": 512},
        context_management={"edits": []},
        output_config={"effort": "low"},
        metadata={"user_id": "a"},
        stream=True,
    )
    assemble_message(client.stream(MESSAGES + "?beta=true", body))
    return "accepted"


def _blocks(message: ReceivedAnthropicMessage) -> str:
    return "".join(block.text for block in message.content if block.type == "text")
