"""Token ids of texts and conversations, and the same count on every API."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.json_text import json_text
from tests.support.fakes import answering
from tests.support.serving import asked

TEXT = "Zürich, 晴れ"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
DATED = ServerSettings(date="2026-01-01")


def run(runtime: Runtime, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    async def all() -> Any:
        async with asked(runtime, DATED) as client:
            return await work(client)

    return asyncio.run(all())


def post(runtime: Runtime, path: str, **body: Any) -> httpx2.Response:
    return run(runtime, lambda client: client.post(path, json=body))


def test_a_text_has_vllms_reply(demo: Runtime) -> None:
    ids = demo.tokenizer.encode(TEXT)

    reply = post(demo, "/tokenize", prompt=TEXT, return_token_strs=True).json()

    assert reply == {
        "count": len(ids),
        "max_model_len": demo.longest_sequence,
        "tokens": ids,
        "token_strs": reply["token_strs"],
    }
    assert reply["token_strs"][0] == demo.tokenizer.decode(ids[:1])
    assert post(demo, "/tokenize", prompt=TEXT).json()["token_strs"] is None
    back = post(demo, "/detokenize", tokens=ids).json()
    assert back == {"prompt": TEXT, "content": TEXT}


def test_a_content_has_llama_cpps(demo: Runtime) -> None:
    ids = demo.tokenizer.encode(TEXT)

    assert post(demo, "/tokenize", content=TEXT).json()["tokens"] == ids
    pieces = post(demo, "/tokenize", content=TEXT, with_pieces=True).json()["tokens"]
    assert [piece["id"] for piece in pieces] == ids
    data = [
        one.encode() if isinstance(one := piece["piece"], str) else bytes(one)
        for piece in pieces
    ]
    assert b"".join(data).decode() == TEXT


def test_control_tokens_are_read_as_each_server_reads_them(demo: Runtime) -> None:
    start = demo.tokenizer.specials["<|start|>"]

    def tokens(**fields: Any) -> list[int]:
        return post(demo, "/tokenize", **fields).json()["tokens"]

    assert tokens(content="<|start|>") == [start]
    assert tokens(prompt="<|start|>", parse_special=True) == [start]
    assert start not in tokens(prompt="<|start|>")
    assert start not in tokens(content="<|start|>", parse_special=False)
    assert post(demo, "/detokenize", tokens=[start]).json()["prompt"] == "<|start|>"


def test_messages_are_the_prompt_of_a_chat(demo: Runtime) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    fields = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [tool],
        "reasoning_effort": "low",
    }

    found = post(demo, "/tokenize", **fields).json()
    rendered = post(demo, CHAT.replace("completions", "render"), **fields).json()
    bare = post(demo, "/tokenize", add_generation_prompt=False, **fields).json()

    assert found["tokens"] == rendered["token_ids"]
    opening = [demo.tokenizer.special("<|start|>"), *demo.tokenizer.encode("assistant")]
    assert bare["tokens"] + opening == found["tokens"]


@pytest.mark.parametrize(
    ("path", "fields", "word"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "prompt"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"messages": [{"role": "nobody"}]}, "role"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "vocabulary"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
    ],
    ids=str,
)
def test_what_is_no_text_is_refused(
    demo: Runtime, path: str, fields: dict[str, Any], word: str
) -> None:
    reply = post(demo, path, **fields)

    assert reply.status_code == 400, reply.text
    assert word in reply.json()["error"]["message"]


def test_no_text_has_no_tokens(demo: Runtime) -> None:
    assert post(demo, "/tokenize", prompt="").json()["count"] == 0
    assert post(demo, "/detokenize", tokens=[]).json()["prompt"] == ""


# A conversation: questions and answers, and in between calls with their results. Each
# turn is (question, reasoning, calls with their results, answer).
words = st.text("ab é<|>", min_size=1, max_size=8).filter(str.strip)
values = st.one_of(
    words, st.integers(-9, 9), st.booleans(), st.lists(st.integers(0, 9))
)
arguments = st.dictionaries(words, values, max_size=2)
rounds = st.lists(st.tuples(arguments, words), max_size=2)
turns = st.lists(st.tuples(words, words, rounds, words), min_size=1, max_size=3)
Turn = tuple[str, str, list[tuple[dict[str, Any], str]], str]


def as_chat(conversation: list[Turn]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for number, (question, thought, calls, said) in enumerate(conversation):
        out.append({"role": "user", "content": question})
        for n, (inputs, result) in enumerate(calls):
            id, text = f"call_{number}_{n}", json_text(inputs)
            function = {"name": "look", "arguments": text}
            call = {"id": id, "type": "function", "function": function}
            out.append(
                {"role": "assistant", "reasoning": thought, "tool_calls": [call]}
            )
            out.append({"role": "tool", "tool_call_id": id, "content": result})
        out.append({"role": "assistant", "content": said})
    return [*out, {"role": "user", "content": "And?"}]


def as_responses(conversation: list[Turn]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for number, (question, thought, calls, said) in enumerate(conversation):
        out.append({"role": "user", "content": question})
        for n, (inputs, result) in enumerate(calls):
            id, text = f"call_{number}_{n}", json_text(inputs)
            parts = [{"type": "reasoning_text", "text": thought}]
            out.append(
                {"type": "reasoning", "id": f"rs_{id}", "summary": [], "content": parts}
            )
            call = {"type": "function_call", "name": "look", "arguments": text}
            out.append(call | {"call_id": id})
            out.append(
                {"type": "function_call_output", "call_id": id, "output": result}
            )
        out.append({"role": "assistant", "content": said})
    return [*out, {"role": "user", "content": "And?"}]


def as_messages(conversation: list[Turn]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for number, (question, thought, calls, said) in enumerate(conversation):
        out.append({"role": "user", "content": question})
        for n, (inputs, result) in enumerate(calls):
            id = f"call_{number}_{n}"
            thinking = {"type": "thinking", "thinking": thought, "signature": ""}
            use = {"type": "tool_use", "id": id, "name": "look", "input": inputs}
            out.append({"role": "assistant", "content": [thinking, use]})
            block = {"type": "tool_result", "tool_use_id": id, "content": result}
            out.append({"role": "user", "content": [block]})
        out.append({"role": "assistant", "content": said})
    return [*out, {"role": "user", "content": "And?"}]


async def counts(
    client: Any,
    chat: list[dict[str, Any]],
    items: list[dict[str, Any]],
    blocks: list[dict[str, Any]],
) -> list[int]:
    """Count a conversation by every route that counts, and by what is charged."""
    function = {"name": "look", "description": "Look.", "parameters": SCHEMA}
    of_chat = {"messages": chat, "tools": [{"type": "function", "function": function}]}
    of_items = {"input": items, "tools": [{"type": "function", **function}]}
    tool = {"name": "look", "description": "Look.", "input_schema": SCHEMA}
    of_blocks = {"messages": blocks, "tools": [tool]}

    async def post(path: str, body: dict[str, Any]) -> Any:
        reply = await client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    one = {"max_tokens": 1}
    charged = [
        (await post(CHAT, of_chat | one))["usage"]["prompt_tokens"],
        (await post(RESPONSES, of_items | {"max_output_tokens": 1, "store": False}))[
            "usage"
        ]["input_tokens"],
    ]
    used = (await post(MESSAGES, of_blocks | one))["usage"]
    return [
        *charged,
        used["input_tokens"] + used["cache_read_input_tokens"],
        (await post("/tokenize", of_chat))["count"],
        (await post("/v1/chat/render", of_chat))["prompt_tokens"],
        (await post(f"{RESPONSES}/input_tokens", of_items))["input_tokens"],
        (await post(f"{MESSAGES}/count_tokens", of_blocks))["input_tokens"],
    ]


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(conversation=turns)
def test_a_conversation_has_one_count(demo: Runtime, conversation: list[Turn]) -> None:
    found = run(
        demo,
        lambda client: counts(
            client,
            as_chat(conversation),
            as_responses(conversation),
            as_messages(conversation),
        ),
    )

    assert len(set(found)) == 1, found


def test_a_call_that_is_replayed_counts_the_same_on_every_api() -> None:
    """Its arguments are text with spaces on two of them, and an object on the third."""
    given = '{"at": "Oslo"}'
    call = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        f" to=functions.look <|constrain|>json<|message|>{given}<|call|>"
    )
    said = "<|channel|>final<|message|>Yes.<|return|>"
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}

    async def work(client: Any) -> list[int]:
        question = {"role": "user", "content": "Where?"}
        body = {"messages": [question], "tools": [tool]}
        first = (await client.post(CHAT, json=body)).json()
        message = first["choices"][0]["message"]
        [made] = message["tool_calls"]
        assert made["function"]["arguments"] == given
        thought, id = message["reasoning"], made["id"]
        result = "Sun."
        chat = [
            question,
            message,
            {"role": "tool", "tool_call_id": id, "content": result},
        ]
        parts = [{"type": "reasoning_text", "text": thought}]
        items = [
            question,
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": parts},
            {
                "type": "function_call",
                "name": "look",
                "arguments": given,
                "call_id": id,
            },
            {"type": "function_call_output", "call_id": id, "output": result},
        ]
        blocks = [
            question,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": thought, "signature": ""},
                    {
                        "type": "tool_use",
                        "id": id,
                        "name": "look",
                        "input": json.loads(given),
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": id, "content": result}
                ],
            },
        ]
        return await counts(client, chat, items, blocks)

    with answering(call, said, said, said) as runtime:
        found = run(runtime, work)

    assert len(set(found)) == 1, found
