"""Compact a conversation: the model summarizes it, in a window that replaces it.

    question = ResponsesRequestReader(summary_request(body), earlier, ...)   # ask
    window = compacted_window([*earlier, *items], summary, count_tokens, most_tokens)

The window has the instructions and questions of the conversation as they were, and one
`compaction` item with the summary of everything. It is sent back as the beginning of an
input. The summary is encoded like reasoning, not encrypted: see `sealed.py`. With
`context_management` the item comes within a response, and stands behind everything that
it replaces.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.responses.item_fields import item_type
from mlx_gptoss.api.responses.kept_items import (
    COMPACTION,
    CountTokens,
    kept_questions,
    message_text,
)
from mlx_gptoss.api.responses.reply_items import new_id
from mlx_gptoss.api.responses.request import AUTO_TRUNCATE, input_items
from mlx_gptoss.api.responses.tools import INSTRUCTION_ROLES
from mlx_gptoss.api.responses.wire import (
    CompactionItem,
    ResponsesInput,
    ResponsesRequest,
    ResponseUsage,
)
from mlx_gptoss.api.sealed import seal
from mlx_gptoss.api.wire import JsonObject, ReplyModel
from mlx_gptoss.harmony.constrain.constraints import NONE
from mlx_gptoss.harmony.json_text import Json

Body = TypeVar("Body", bound=ResponsesInput)
SUMMARY_SHARE = 1 / 8  # of the context, for the reasoning and the summary
MOST_SUMMARY_TOKENS = 8192
DUE_SHARE = 3 / 4  # of the context, where a request gives no threshold
ASK = (
    "Summarize this conversation for an assistant who will continue it and sees "
    "nothing of it but your summary and the user's own messages. Give what was asked "
    "and what was decided, facts, names, numbers, files and results of tools that are "
    "still needed, and what remains to be done. Write only the summary."
)


class CompactRequest(ResponsesInput):
    """The body of `/v1/responses/compact`. `model` must be there, but may be null."""

    model: str | None  # pyright: ignore[reportGeneralTypeIssues]  # required here
    prompt_cache_key: str | None = None


class CompactReply(ReplyModel):
    """A compacted conversation; `usage` is that of writing the summary."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: list[JsonObject]
    usage: ResponseUsage

    def json_text(self) -> str:
        return self.model_dump_json()


def threshold(body: ResponsesInput, context: int | None) -> int | None:
    """Return the prompt tokens from which on a request wants to be compacted."""
    entries = body.context_management if isinstance(body, ResponsesRequest) else None
    for entry in entries or ():
        if entry.type == COMPACTION:
            default = None if context is None else int(context * DUE_SHARE)
            return entry.compact_threshold or default
    return None


def summary_request(body: Body, context: int | None) -> Body:
    """Return the request that asks the model for the summary.

    It begins like the conversation's own requests, which are in the prompt cache.
    """
    question: JsonObject = {"type": "message", "role": "user", "content": ASK}
    most = MOST_SUMMARY_TOKENS
    if context is not None:
        most = min(most, max(1, int(context * SUMMARY_SHARE)))
    given = body.max_output_tokens
    return body.model_copy(
        update={
            "input": [*input_items(body), question],
            "tool_choice": NONE,
            "text": None,
            "stop": None,
            "truncation": AUTO_TRUNCATE,
            "max_output_tokens": most if given is None else min(most, given),
        }
    )


def compacted_window(
    items: Sequence[Any],
    summary: str,
    count_tokens: CountTokens,
    context: int | None,
) -> list[JsonObject]:
    """Return the items that replace a conversation.

    Instructions at its beginning and the user's messages stay, as text, the newest
    first while they fit their share of the context; the others are in the summary only.
    """
    first = map(text_message, leading_instructions(items))
    kept = kept_questions(items, count_tokens, context)
    questions = (text_message(items[index]) for index in kept)
    return [*first, *questions, compaction_item(summary)]


def compaction_item(summary: str) -> JsonObject:
    item = CompactionItem(id=new_id("cmp"), encrypted_content=seal(summary))
    return item.model_dump()


def leading_instructions(items: Sequence[Any]) -> list[Json]:
    """Return the messages with instructions at the beginning of a conversation."""
    found: list[Json] = []
    for item in items:
        is_message = item_type(item) == "message"
        if not is_message or item.get("role") not in INSTRUCTION_ROLES:
            break
        found.append(item)
    return found


def text_message(item: Json) -> JsonObject:
    """Return a message with its text in one part; other content becomes lines."""
    return {
        "id": new_id("msg"),
        "type": "message",
        "status": "completed",
        "role": item.get("role"),
        "content": [{"type": "input_text", "text": message_text(item)}],
    }


def compact_reply(output: list[JsonObject], usage: ResponseUsage) -> CompactReply:
    return CompactReply(
        id=new_id("resp"),
        object="response.compaction",
        created_at=int(time.time()),
        output=output,
        usage=usage,
    )


def no_summary() -> ApiError:
    return ApiError(
        500,
        "the model wrote no summary: compact again, or with `reasoning.effort` low",
        "model_failed",
        None,
        "server_error",
    )
