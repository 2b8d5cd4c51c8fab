"""Text never becomes structure: all attempts, in all places, over all APIs.

Each attempt stands where a user, a file or a tool can put text. The prompt must have
the control tokens and headers of the same request with harmless text, and the text
itself, unchanged.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from mlx_gptoss.api.ollama.request import read_chat
from mlx_gptoss.api.ollama.wire import OllamaChatRequest
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.diagnostics.agents.injection import (
    PLACES,
    Attempt,
    messages_of,
    read_attempts,
)
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.render.prompt import render_messages
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.question import conversation
from tests.support.serving import DATE, asked

ATTEMPTS = read_attempts()
HARMLESS = Attempt("harmless", "Nothing.")
SETTINGS = ServerSettings(date=DATE)
CALL = {"name": "read_page", "arguments": "{}"}
Body = dict[str, Any]


def chat(text: str, place: str) -> Body:
    return {"messages": messages_of(text, place)}


def chat_parts(text: str) -> Body:
    parts = [{"type": "text", "text": text}, {"type": "text", "text": "Well?"}]
    return {"messages": [{"role": "user", "content": parts}]}


def chat_tool_description(text: str) -> Body:
    parameters = {
        "type": "object",
        "properties": {"at": {"type": "string", "description": text}},
    }
    function = {"name": "look", "description": text, "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    return {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}


def chat_arguments(text: str) -> Body:
    call = {"name": "look", "arguments": json.dumps({"at": text}, ensure_ascii=False)}
    calls = [{"id": "c", "type": "function", "function": call}]
    return {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c", "content": "Seen."},
        ]
    }


def responses_result(text: str) -> Body:
    return {
        "input": [
            {"role": "user", "content": "Hi"},
            {"type": "function_call", "call_id": "c", **CALL},
            {"type": "function_call_output", "call_id": "c", "output": text},
        ]
    }


def responses_instructions(text: str) -> Body:
    return {"instructions": text, "input": [{"role": "user", "content": text}]}


def messages_result(text: str) -> Body:
    result = {"type": "tool_result", "tool_use_id": "c", "content": text}
    use = {"type": "tool_use", "id": "c", "name": "read_page", "input": {}}
    return {
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ],
    }


def messages_document(text: str) -> Body:
    source = {"type": "text", "media_type": "text/plain", "data": text}
    document = {"type": "document", "source": source}
    content = [document, {"type": "text", "text": "Well?"}]
    return {"max_tokens": 9, "messages": [{"role": "user", "content": content}]}


CHAT, RESPONSES, MESSAGES = (
    f"/v1/{api}/render" for api in ("chat", "responses", "messages")
)
FORMS: dict[str, tuple[str, Callable[[str], Body]]] = {
    **{
        f"chat {place}": (CHAT, lambda text, place=place: chat(text, place))
        for place in PLACES
    },
    "chat parts": (CHAT, chat_parts),
    "chat tool description": (CHAT, chat_tool_description),
    "chat arguments": (CHAT, chat_arguments),
    "responses result": (RESPONSES, responses_result),
    "responses instructions": (RESPONSES, responses_instructions),
    "messages result": (MESSAGES, messages_result),
    "messages document": (MESSAGES, messages_document),
}
REWRITTEN = (
    "chat tool description",
    "chat arguments",
    "messages document",
    "chat file",
)


def skeleton(ids: list[int], runtime: Runtime) -> list[str]:
    """Return the control tokens, and the text of headers between them."""
    tokenizer = runtime.tokenizer
    names = {token: name for name, token in tokenizer.specials.items()}
    found, header, in_body = list[str](), list[int](), True
    for token in ids:
        if token in names:
            found += [tokenizer.decode(header), names[token]]
            header, in_body = [], names[token] == "<|message|>"
        elif not in_body:
            header.append(token)
    return [*found, tokenizer.decode(header)]


@pytest.fixture(scope="module")
def prompts(demo: Runtime) -> dict[tuple[str, str], list[int]]:
    """The token ids of each form with each attempt."""

    async def render() -> dict[tuple[str, str], list[int]]:
        found: dict[tuple[str, str], list[int]] = {}
        async with asked(demo, SETTINGS) as client:
            for form, (path, make) in FORMS.items():
                for attempt in (HARMLESS, *ATTEMPTS):
                    body = {"model": "demo"} | make(attempt.filled)
                    reply = await client.post(path, json=body)
                    assert reply.status_code == 200, reply.text
                    found[form, attempt.name] = reply.json()["token_ids"]
        return found

    return asyncio.run(render())


@pytest.mark.parametrize("form", FORMS)
def test_no_text_becomes_a_role_or_a_header(
    form: str, prompts: dict[tuple[str, str], list[int]], demo: Runtime
) -> None:
    expected = skeleton(prompts[form, HARMLESS.name], demo)
    assert "<|start|>" in expected
    for attempt in ATTEMPTS:
        ids = prompts[form, attempt.name]
        assert skeleton(ids, demo) == expected, attempt.name
        if form not in REWRITTEN:
            assert attempt.filled in demo.tokenizer.decode(ids), attempt.name


def test_nor_over_ollamas_api_and_in_a_text_to_judge(demo: Runtime) -> None:
    def ids_of(text: str) -> tuple[list[int], list[int]]:
        body = {"model": "demo", "messages": messages_of(text, "user")}
        read = read_chat(OllamaChatRequest(**body), demo, settings=SETTINGS)
        judged = conversation(
            Policy("p", "Judge."), text, effort="low", rationale=False, date=DATE
        )
        return read.render(demo), render_messages(judged, demo.tokenizer)

    expected = [skeleton(ids, demo) for ids in ids_of(HARMLESS.filled)]
    for attempt in ATTEMPTS:
        found = ids_of(attempt.filled)
        assert [skeleton(ids, demo) for ids in found] == expected, attempt.name
        for ids in found:
            assert attempt.filled in demo.tokenizer.decode(ids)


def test_the_attempts_try_every_control_token(demo: Runtime) -> None:
    tried = "".join(attempt.filled for attempt in ATTEMPTS)
    missing = {name for name in demo.tokenizer.specials if name not in tried}
    assert {one for one in missing if "reserved" not in one} <= {
        "<|startoftext|>",
        "<|refusal|>",
    }
