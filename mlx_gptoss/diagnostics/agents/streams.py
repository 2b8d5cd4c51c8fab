"""Assemble streamed events into whole replies, as a strict client does.

Events that are out of order, missing or contradictory raise InvalidReply. The result is
validated like a reply that was not streamed.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from mlx_gptoss.diagnostics.agents.received import (
    ReceivedAnthropicMessage,
    ReceivedChunk,
    ReceivedCompletion,
    ReceivedFunctionDelta,
    ReceivedResponse,
    ReceivedToolCallDelta,
    require,
    validate,
)
from mlx_gptoss.diagnostics.http_client import ServerSentEvent

DONE = "[DONE]"
TEXT_EVENTS = (  # delta event, done event, key of the whole text
    ("response.output_text.delta", "response.output_text.done", "text"),
    ("response.reasoning_text.delta", "response.reasoning_text.done", "text"),
    (
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "arguments",
    ),
    (
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "input",
    ),
)
DELTA_FIELDS = {  # of Anthropic's deltas, by type
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


def assemble_chat(events: Iterable[ServerSentEvent]) -> ReceivedCompletion:
    """Assemble chat chunks; the request must have set `include_usage`."""
    found = [event.data for event in events]
    require(found and found[-1] == DONE, f"the stream does not end with {DONE}")
    chunks = [validate(ReceivedChunk, data) for data in found[:-1]]
    require(len({chunk.id for chunk in chunks}) == 1, "chunks have different ids")
    require(chunks[-1].usage and not chunks[-1].choices, "no usage in the last chunk")
    choices = [choice for chunk in chunks for choice in chunk.choices]
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    require(len(reasons) == 1, f"{len(reasons)} finish reasons in one stream")
    require(choices[-1].finish_reason, "something follows the finish reason")
    deltas = [choice.delta for choice in choices]
    require(deltas[0].role == "assistant", "the first delta has no role")
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for part in delta.tool_calls or ():
            _add_call(calls, part)
    body = {
        "id": chunks[0].id,
        "object": "chat.completion",
        "created": chunks[0].created,
        "model": chunks[0].model,
        "choices": [
            {
                "index": 0,
                "finish_reason": reasons[0],
                "message": {
                    "role": "assistant",
                    "content": _joined(delta.content for delta in deltas),
                    "reasoning": _joined(delta.reasoning for delta in deltas),
                    "tool_calls": calls or None,
                },
            }
        ],
        "usage": chunks[-1].usage and chunks[-1].usage.model_dump(),
    }
    return validate(ReceivedCompletion, body)


def _add_call(calls: list[dict[str, Any]], part: ReceivedToolCallDelta) -> None:
    require(part.index <= len(calls), f"call {part.index} begins out of order")
    function = part.function or ReceivedFunctionDelta()
    if part.index == len(calls):
        calls.append(
            {
                "id": part.id,
                "type": part.type,
                "function": {"name": function.name, "arguments": ""},
            }
        )
    calls[part.index]["function"]["arguments"] += function.arguments or ""


def _joined(parts: Iterable[str | None]) -> str | None:
    found = [part for part in parts if part is not None]
    return "".join(found) if found else None


def assemble_response(events: Iterable[ServerSentEvent]) -> ReceivedResponse:
    """Assemble a response; it must equal the response in the last event."""
    found = [event for event in events if event.data != DONE]
    require(found, "no events")
    for number, event in enumerate(found):
        require(isinstance(event.data, dict), f"event {number} is not a JSON object")
        require(event.name == event.data.get("type"), f"event {number} has two names")
        counted = event.data.get("sequence_number")
        require(counted == number, f"event {number} has sequence_number {counted}")
    kinds = [event.name for event in found]
    require(kinds[:1] == ["response.created"], f"the first event is {kinds[0]}")
    ends = ("response.completed", "response.incomplete")
    require(kinds[-1] in ends, f"the last event is {kinds[-1]}")
    response = validate(ReceivedResponse, found[-1].data["response"])
    require(
        kinds[-1] == f"response.{response.status}", "the end contradicts its status"
    )
    items = _ResponseAssembler()
    for event in found[1:-1]:
        items.take(event.data)
    if response.status == "incomplete":
        items.drop_cut_call()
    items.compare(found[-1].data["response"]["output"])
    return response


class _ResponseAssembler:
    """The items of a streamed response, built from its events."""

    def __init__(self) -> None:
        self._open: str | None = None
        self._is_call = False  # the open item
        self._texts: dict[tuple[str, int], str] = {}
        self._done: list[Any] = []

    def take(self, data: dict[str, Any]) -> None:
        """Add an event; raise InvalidReply if it is out of order."""
        kind = data["type"]
        if kind == "response.output_item.added":
            require(self._open is None, "an item begins inside another")
            require(data["output_index"] == len(self._done), "output_index is wrong")
            self._open = data["item"]["id"]
            self._is_call = data["item"]["type"].endswith("_call")
        elif kind == "response.output_item.done":
            require(data["item"]["id"] == self._open, "an item ends that never began")
            self._done.append(data["item"])
            self._open = None
        for adds, ends, key in TEXT_EVENTS:
            at = (adds, data.get("content_index", 0))
            if kind == adds:
                require(data["item_id"] == self._open, f"{kind} outside its item")
                self._texts[at] = self._texts.get(at, "") + data["delta"]
            elif kind == ends:
                text = self._texts.pop(at, "")
                require(text == data[key], f"{kind} differs from its deltas")

    def drop_cut_call(self) -> None:
        """Drop a call that was cut off: it never ends, and the reply omits it."""
        if self._is_call and self._open is not None:
            self._open = None
            self._texts.clear()

    def compare(self, output: Sequence[Any]) -> None:
        """Compare the items with those of the whole response."""
        require(self._open is None, "an item was never ended")
        require(not self._texts, f"never ended: {sorted(self._texts)}")
        require(self._done == list(output), "the items differ from the response's")


def assemble_message(events: Iterable[ServerSentEvent]) -> ReceivedAnthropicMessage:
    """Assemble a stream of /v1/messages."""
    message = _MessageAssembler()
    for event in events:
        require(isinstance(event.data, dict), "an event is not a JSON object")
        require(event.name == event.data.get("type"), "an event has two names")
        message.take(event.data)
    return message.whole()


class _MessageAssembler:
    """An Anthropic message, built from its events."""

    def __init__(self) -> None:
        self._body: dict[str, Any] = {}
        self._block: dict[str, Any] = {}
        self._ended = False

    def take(self, data: dict[str, Any]) -> None:
        """Add an event; raise InvalidReply if it is out of order."""
        kind = data["type"]
        require(not self._ended, f"{kind} follows message_stop")
        require(bool(self._body) != (kind == "message_start"), f"{kind} out of place")
        match kind:
            case "message_start":
                self._body = dict(data["message"])
                require(self._body["content"] == [], "the message begins with content")
            case "content_block_start":
                require(not self._block, "a block begins inside another")
                count = len(self._body["content"])
                require(data["index"] == count, "the block's index is wrong")
                self._block = dict(data["content_block"])
            case "content_block_delta":
                require(self._block, "a delta outside a block")
                key = DELTA_FIELDS.get(data["delta"]["type"])
                require(key, f"unknown delta {data['delta']['type']}")
                text = self._block.get(str(key), "")
                self._block[str(key)] = text + data["delta"][str(key)]
            case "content_block_stop":
                require(self._block, "a block ends that never began")
                self._body["content"].append(self._whole_block())
                self._block = {}
            case "message_delta":
                require(not self._block, "message_delta inside a block")
                self._body |= data["delta"]
                self._body["usage"] = self._body["usage"] | data["usage"]
            case "message_stop":
                self._ended = True
            case _:
                require(kind == "ping", f"unknown event {kind}: {data.get('error')}")

    def _whole_block(self) -> dict[str, Any]:
        text = self._block.pop("partial_json", "")
        if text:
            self._block["input"] = json.loads(text)
        return self._block

    def whole(self) -> ReceivedAnthropicMessage:
        """Return the message; raise InvalidReply if it has not ended."""
        require(self._ended, "no message_stop")
        return validate(ReceivedAnthropicMessage, self._body)
