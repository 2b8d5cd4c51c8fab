"""The conversation of `agents check`: what agents ask of a server, step by step.

Each step says it through the protocol of the clients that need it, holds every reply
against shapes.py, and fails with the first thing that is not as promised. The model is
asked easy things only: a step is about the server.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.agents.client import Client, Refused
from mlx_gptoss.agents.shapes import (
    AnthropicMessage,
    BadShape,
    Completion,
    Response,
    read,
    require,
)
from mlx_gptoss.agents.streams import (
    assemble_chat,
    assemble_message,
    assemble_response,
)
from mlx_gptoss.errors import GptOssError

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
TOKENS = 1024
HELLO = "Hello!"
ASK = "What is the weather in Oslo?"
RESULT = '{"temperature": 21}'
TOOL = "get_weather"
DESCRIPTION = "Gets the weather for a city."
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
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
RESPONSES_TOOL = {
    "type": "function",
    "name": TOOL,
    "description": DESCRIPTION,
    "parameters": CITY,
    "strict": False,
}
MESSAGES_TOOL = {"name": TOOL, "description": DESCRIPTION, "input_schema": CITY}
PATCH_TOOL = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files by a patch.",
}

Body = dict[str, Any]
Run = Callable[[Client, str], str]


@dataclass(frozen=True)
class Step:
    """One thing to try; `run(client, model)` returns a note or raises."""

    protocol: str  # chat | responses | messages
    name: str
    run: Run


@dataclass(frozen=True)
class Outcome:
    """How a step went; `note` is what came or what was wrong."""

    step: Step
    passed: bool
    note: str
    seconds: float


def check(
    client: Client, model: str, protocols: Sequence[str] | None = None
) -> Iterator[Outcome]:
    """Run the steps of `protocols` (None: all), yielding each outcome as it comes."""
    for step in STEPS:
        if protocols is None or step.protocol in protocols:
            yield _outcome(step, client, model)


def _outcome(step: Step, client: Client, model: str) -> Outcome:
    began = time.monotonic()
    try:
        note, passed = step.run(client, model), True
    except (GptOssError, LookupError, TypeError, ValueError, OSError) as error:
        note, passed = f"{error}" or type(error).__name__, False
    return Outcome(step, passed, " ".join(note.split()), time.monotonic() - began)


def models(client: Client) -> Sequence[str]:
    """Return the ids of the models a server lists."""
    return [str(model["id"]) for model in client.get("/v1/models")["data"]]


# /v1/chat/completions


def _chat(model: str, *messages: Body, **more: Any) -> Body:
    """A request; greedy, so that two runs of a check agree."""
    return {
        "model": model,
        "messages": list(messages),
        "max_completion_tokens": TOKENS,
        "reasoning_effort": "low",
        "temperature": 0,
        **more,
    }


def _user(text: str) -> Body:
    return {"role": "user", "content": text}


def _stream_chat(client: Client, body: Body) -> Completion:
    more = {"stream": True, "stream_options": {"include_usage": True}}
    return assemble_chat(client.stream(CHAT, body | more))


def chat_plain(client: Client, model: str) -> str:
    """One question, one answer."""
    reply = read(Completion, client.post(CHAT, _chat(model, _user(HELLO))))
    return _said(reply.choices[0].message.content)


def chat_streamed(client: Client, model: str) -> str:
    """The same in chunks."""
    reply = _stream_chat(client, _chat(model, _user(HELLO)))
    return _said(reply.choices[0].message.content)


def chat_tool(client: Client, model: str) -> str:
    """A call, streamed; its result; the answer."""
    asked = _user(ASK)
    reply = _stream_chat(client, _chat(model, asked, tools=[CHAT_TOOL]))
    require(reply.choices[0].finish_reason == "tool_calls", "no call was made")
    message = reply.choices[0].message
    calls = message.tool_calls or []
    require(len(calls) == 1, f"{len(calls)} calls where one was expected")
    city = _city(calls[0].function.name, calls[0].function.arguments)
    back = message.model_dump(exclude_none=True) | {"content": message.content}
    result = {"role": "tool", "tool_call_id": calls[0].id, "content": RESULT}
    body = _chat(model, asked, back, result, tools=[CHAT_TOOL])
    last = read(Completion, client.post(CHAT, body))
    return f"{TOOL}({city}) -> {_said(last.choices[0].message.content)}"


def chat_forced(client: Client, model: str) -> str:
    """A call that is demanded though nothing asks for it."""
    choice = {"type": "function", "function": {"name": TOOL}}
    body = _chat(model, _user(HELLO), tools=[CHAT_TOOL], tool_choice=choice)
    message = read(Completion, client.post(CHAT, body)).choices[0].message
    require(message.tool_calls, "no call was made")
    function = (message.tool_calls or [])[0].function
    return f"{TOOL}({_city(function.name, function.arguments)})"


def chat_schema(client: Client, model: str) -> str:
    """An answer bound by a JSON schema."""
    form = {"name": "person", "schema": NAME, "strict": True}
    form = {"type": "json_schema", "json_schema": form}
    body = _chat(model, _user("My name is Maria."), response_format=form)
    content = read(Completion, client.post(CHAT, body)).choices[0].message.content
    return f"{_named(content)}"


def chat_unknown(client: Client, model: str) -> str:
    """Fields and tool types nobody knows are let pass."""
    body = _chat(model, _user(HELLO), tools=[CHAT_TOOL, {"type": "web_search"}])
    body |= {"an_unknown_field": {"a": 1}, "metadata": {"a": "b"}, "user": "me"}
    read(Completion, client.post(CHAT, body))
    return "accepted"


def chat_wrong(client: Client, model: str) -> str:
    """A wrong type is an error of the protocol."""
    body = _chat(model, _user(HELLO)) | {"temperature": "warm"}
    try:
        client.post(CHAT, body)
    except Refused as error:
        require(error.status == 400, f"status {error.status} where 400 was expected")
        return str(error)
    raise BadShape("temperature `warm` was accepted")


# /v1/responses


def _response(model: str, asked: Any, **more: Any) -> Body:
    return {
        "model": model,
        "input": asked,
        "max_output_tokens": TOKENS,
        "reasoning": {"effort": "low"},
        "temperature": 0,
        **more,
    }


def _stream_response(client: Client, body: Body) -> Response:
    return assemble_response(client.stream(RESPONSES, body | {"stream": True}))


def responses_plain(client: Client, model: str) -> str:
    """One question, one answer."""
    body = _response(model, HELLO, store=False)
    return _said(_text(read(Response, client.post(RESPONSES, body))))


def responses_streamed(client: Client, model: str) -> str:
    """The same in events, each in its order."""
    return _said(_text(_stream_response(client, _response(model, HELLO, store=False))))


def responses_tool(client: Client, model: str) -> str:
    """A call, streamed; its result behind everything that came; the answer."""
    asked: list[Any] = [_user(ASK)]
    more: Body = {"tools": [RESPONSES_TOOL], "store": False}
    first = _stream_response(client, _response(model, asked, **more))
    calls = [item for item in first.output if item.type == "function_call"]
    require(len(calls) == 1, f"{len(calls)} calls where one was expected")
    city = _city(calls[0].name, calls[0].arguments)
    asked += [item.model_dump(exclude_none=True) for item in first.output]
    result = {"type": "function_call_output", "call_id": calls[0].call_id}
    asked.append(result | {"output": RESULT})
    last = read(Response, client.post(RESPONSES, _response(model, asked, **more)))
    return f"{TOOL}({city}) -> {_said(_text(last))}"


def responses_previous(client: Client, model: str) -> str:
    """A turn that goes on from a stored one."""
    body = _response(model, "My name is Maria.", store=True)
    first = read(Response, client.post(RESPONSES, body))
    body = _response(model, "What is my name?", previous_response_id=first.id)
    answer = _said(_text(read(Response, client.post(RESPONSES, body))))
    require("Maria" in answer, f"the first turn was forgotten: {answer}")
    return answer


def responses_custom(client: Client, model: str) -> str:
    """A custom (freeform) tool, as Codex's apply_patch is."""
    choice = {"type": "custom", "name": "apply_patch"}
    body = _response(model, "Add a file.", tools=[PATCH_TOOL], tool_choice=choice)
    reply = _stream_response(client, body | {"max_output_tokens": 200, "store": False})
    calls = [item for item in reply.output if item.type == "custom_tool_call"]
    require(calls, "no custom call was made")
    return f"{calls[0].name}: {len(calls[0].input)} characters"


def responses_codex(client: Client, model: str) -> str:
    """The request Codex begins with: tool types and fields of its own."""
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


# /v1/messages


def _message(model: str, *messages: Body, **more: Any) -> Body:
    return {
        "model": model,
        "max_tokens": TOKENS,
        "messages": list(messages),
        "temperature": 0,
        **more,
    }


def messages_plain(client: Client, model: str) -> str:
    """One question, one answer."""
    body = _message(model, _user(HELLO))
    return _said(_blocks(read(AnthropicMessage, client.post(MESSAGES, body))))


def messages_streamed(client: Client, model: str) -> str:
    """The same in events."""
    body = _message(model, _user(HELLO), stream=True)
    return _said(_blocks(assemble_message(client.stream(MESSAGES, body))))


def messages_tool(client: Client, model: str) -> str:
    """A call, streamed; its result; the answer."""
    asked = _user(ASK)
    body = _message(model, asked, tools=[MESSAGES_TOOL], stream=True)
    first = assemble_message(client.stream(MESSAGES, body))
    calls = [block for block in first.content if block.type == "tool_use"]
    require(len(calls) == 1, f"{len(calls)} calls where one was expected")
    require(first.stop_reason == "tool_use", f"stop_reason is {first.stop_reason}")
    city = _city(calls[0].name, json.dumps(calls[0].input))
    back = {"role": "assistant", "content": first.model_dump()["content"]}
    result = {"type": "tool_result", "tool_use_id": calls[0].id, "content": RESULT}
    after = {"role": "user", "content": [result]}
    body = _message(model, asked, back, after, tools=[MESSAGES_TOOL])
    last = read(AnthropicMessage, client.post(MESSAGES, body))
    return f"{TOOL}({city}) -> {_said(_blocks(last))}"


def messages_claude_code(client: Client, model: str) -> str:
    """The request Claude Code begins with: a beta path and fields of its own."""
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


STEPS = (
    Step("chat", "an answer", chat_plain),
    Step("chat", "an answer, streamed", chat_streamed),
    Step("chat", "a tool and its result", chat_tool),
    Step("chat", "a tool demanded", chat_forced),
    Step("chat", "an answer by a JSON schema", chat_schema),
    Step("chat", "unknown fields and tool types", chat_unknown),
    Step("chat", "an error for a wrong type", chat_wrong),
    Step("responses", "an answer", responses_plain),
    Step("responses", "an answer, streamed", responses_streamed),
    Step("responses", "a tool and its result", responses_tool),
    Step("responses", "previous_response_id", responses_previous),
    Step("responses", "a custom tool", responses_custom),
    Step("responses", "what Codex sends", responses_codex),
    Step("messages", "an answer", messages_plain),
    Step("messages", "an answer, streamed", messages_streamed),
    Step("messages", "a tool and its result", messages_tool),
    Step("messages", "what Claude Code sends", messages_claude_code),
)


def _said(text: str | None) -> str:
    require(text and text.strip(), "the answer is empty")
    return str(text).strip()


def _city(name: str, arguments: str) -> str:
    require(name == TOOL, f"`{name}` was called, which was not offered")
    found = json.loads(arguments)
    require(isinstance(found.get("city"), str), f"the arguments are {arguments}")
    return found["city"]


def _named(content: str | None) -> str:
    found = json.loads(_said(content))
    require(set(found) == {"name"}, f"the answer is {content}")
    return str(content)


def _text(response: Response) -> str:
    return "".join(_texts(response))


def _texts(response: Response) -> Iterable[str]:
    for item in response.output:
        if item.type == "message":
            yield from (part.text for part in item.content)


def _blocks(message: AnthropicMessage) -> str:
    return "".join(block.text for block in message.content if block.type == "text")
