"""Streams put together: good ones become their message, broken ones are named."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from mlx_gptoss.diagnostics.agents.received import InvalidReply
from mlx_gptoss.diagnostics.agents.streams import (
    assemble_chat,
    assemble_message,
    assemble_response,
)
from mlx_gptoss.diagnostics.http_client import ServerSentEvent, parse_events

Events = list[ServerSentEvent]
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chunk(choices: list[Any], usage: Any = None) -> ServerSentEvent:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return ServerSentEvent(None, head | {"choices": choices, "usage": usage})


def delta(finish_reason: str | None = None, **fields: Any) -> ServerSentEvent:
    return chunk([{"index": 0, "delta": fields, "finish_reason": finish_reason}])


def chat_stream() -> Events:
    call = {"index": 0, "id": "call_1", "type": "function"}
    return [
        delta(role="assistant"),
        delta(reasoning="I "),
        delta(reasoning="look."),
        delta(tool_calls=[call | {"function": {"name": "f", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
        delta("tool_calls"),
        chunk([], USAGE),
        ServerSentEvent(None, "[DONE]"),
    ]


def test_chunks_become_a_message_with_its_calls() -> None:
    choice = assemble_chat(chat_stream()).choices[0]
    assert (choice.finish_reason, choice.message.reasoning) == ("tool_calls", "I look.")
    (call,) = choice.message.tool_calls or []
    assert (call.id, call.function.name, call.function.arguments) == (
        "call_1",
        "f",
        '{"a":1}',
    )


def change(number: int, **fields: Any) -> Callable[[Events], None]:
    return lambda found: found[number].data.update(fields)


def drop(number: int) -> Callable[[Events], None]:
    return lambda found: found.__delitem__(number)


def twice(number: int) -> Callable[[Events], None]:
    return lambda found: found.insert(number, copy.deepcopy(found[number]))


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (drop(-1), "does not end with"),
        (drop(-2), "no usage in the last chunk"),
        (drop(0), "the first delta has no role"),
        (drop(6), "0 finish reasons"),
        (twice(6), "2 finish reasons"),
        (drop(3), "`choices.0.message.tool_calls.0.id`"),
        (change(1, id="other"), "different ids"),
        (change(1, object="chunk"), "Chunk: `object`"),
        (lambda found: found.insert(7, delta(content="x")), "follows the finish"),
    ],
)
def test_a_broken_chat_stream_is_named(
    harm: Callable[[Events], None], fault: str
) -> None:
    found = chat_stream()
    harm(found)
    with pytest.raises(InvalidReply, match=fault):
        assemble_chat(found)


def response_stream() -> Events:
    part = {"type": "output_text", "text": "Hi.", "annotations": []}
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    done = item | {"content": [part]}
    usage = {
        "input_tokens": 1,
        "output_tokens": 2,
        "total_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    response = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "output": [done],
        "usage": usage,
        "parallel_tool_calls": True,
        "tools": [],
    }
    at = {"item_id": "m", "output_index": 0, "content_index": 0}
    told = [
        ("response.created", {"response": response | {"output": []}}),
        ("response.output_item.added", {"output_index": 0, "item": item}),
        ("response.output_text.delta", at | {"delta": "H"}),
        ("response.output_text.delta", at | {"delta": "i."}),
        ("response.output_text.done", at | {"text": "Hi."}),
        ("response.output_item.done", {"output_index": 0, "item": done}),
        ("response.completed", {"response": response}),
    ]
    return [
        ServerSentEvent(
            name, {"type": name, "sequence_number": number} | copy.deepcopy(fields)
        )
        for number, (name, fields) in enumerate(told)
    ]


def numbered(found: Events) -> None:
    for number, event in enumerate(found):
        event.data["sequence_number"] = number


def test_the_events_of_a_response_become_the_response() -> None:
    (item,) = assemble_response(response_stream()).output
    assert item.type == "message" and item.content[0].text == "Hi."


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (change(3, sequence_number=7), "event 3 has sequence_number 7"),
        (change(3, type="other"), "event 3 has two names"),
        (drop(0), "the first event is"),
        (drop(6), "the last event is"),
        (drop(2), "differs from its deltas"),
        (drop(4), "never ended"),
        (drop(5), "an item was never ended"),
        (drop(1), "outside its item"),
        (change(5, item={"type": "message", "id": "n"}), "ends that never began"),
        (change(1, output_index=1), "output_index is wrong"),
    ],
)
def test_a_broken_response_stream_is_named(
    harm: Callable[[Events], None], fault: str
) -> None:
    found = response_stream()
    harm(found)
    if "sequence_number" not in fault:
        numbered(found)
    with pytest.raises(InvalidReply, match=fault):
        assemble_response(found)


def test_a_call_that_was_cut_is_no_item_of_an_incomplete_response() -> None:
    found = response_stream()
    last = found.pop()
    call = {"type": "function_call", "id": "c", "call_id": "c", "name": "f"}
    at = {"item_id": "c", "output_index": 1}
    for name, fields in [
        ("response.output_item.added", {"output_index": 1, "item": call}),
        ("response.function_call_arguments.delta", at | {"delta": "{"}),
        ("response.incomplete", {"response": last.data["response"]}),
    ]:
        found.append(ServerSentEvent(name, {"type": name} | fields))
    found[-1].data["response"]["status"] = "incomplete"
    numbered(found)

    (item,) = assemble_response(found).output

    assert item.type == "message"


def message_stream() -> Events:
    message = {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 0},
    }
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    told: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": message}),
        ("content_block_start", {"index": 0, "content_block": text_block()}),
        ("content_block_delta", {"delta": {"type": "text_delta", "text": "Hi."}}),
        ("content_block_stop", {"index": 0}),
        ("ping", {}),
        ("content_block_start", {"index": 1, "content_block": tool}),
        ("content_block_delta", {"delta": json_delta('{"a":')}),
        ("content_block_delta", {"delta": json_delta("1}")}),
        ("content_block_stop", {"index": 1}),
        (
            "message_delta",
            {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        ),
        ("message_stop", {}),
    ]
    return [ServerSentEvent(name, {"type": name} | fields) for name, fields in told]


def text_block() -> dict[str, str]:
    return {"type": "text", "text": ""}


def json_delta(text: str) -> dict[str, str]:
    return {"type": "input_json_delta", "partial_json": text}


def test_the_events_of_a_message_become_the_message() -> None:
    message = assemble_message(message_stream())
    assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 9)
    text, tool = message.content
    assert text.type == "text" and text.text == "Hi."
    assert tool.type == "tool_use" and tool.input == {"a": 1}


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (drop(0), "content_block_start out of place"),
        (twice(0), "message_start out of place"),
        (drop(1), "a delta outside a block"),
        (drop(3), "a block begins inside another"),
        (change(5, index=0), "the block's index is wrong"),
        (drop(8), "message_delta inside a block"),
        (drop(9), "`stop_reason`"),
        (drop(10), "no message_stop"),
        (twice(10), "follows message_stop"),
        (change(4, type="error"), "an event has two names"),
    ],
)
def test_a_broken_message_stream_is_named(
    harm: Callable[[Events], None], fault: str
) -> None:
    found = message_stream()
    harm(found)
    with pytest.raises(InvalidReply, match=fault):
        assemble_message(found)


def test_events_are_read_from_lines() -> None:
    lines = b"event: a\r\ndata: 1\r\n\r\n: ping\n\ndata: [DONE]\ndata: x\n\ndata: lost"
    found = list(parse_events(iter(lines.splitlines(keepends=True))))
    assert found == [ServerSentEvent("a", 1), ServerSentEvent(None, "[DONE]\nx")]
