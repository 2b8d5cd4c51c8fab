"""What is heard, as content blocks and as the events of a stream.

    output = Output(reply)
    events = output.begin(usage)          # message_start, ping
    events = output.feed(heard.events)    # content_block_start, _delta, _stop
    events = output.end(turn...)          # message_delta, message_stop
    output.reply                          # the message

A whole reply is made by the same steps, so that both ways say the same. A call has its
block once it is whole: of one that is cut there is none, in streams either.
"""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from mlx_gptoss.api.generation import TokenCounts
from mlx_gptoss.api.messages import wire
from mlx_gptoss.api.sealed import seal
from mlx_gptoss.harmony.events import (
    Answer,
    MessageEnded,
    ParserEvent,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
)

Event = dict[str, Any]
INVALID_JSON = "INVALID_JSON"  # Anthropic's name for it
DELTAS_PER_PING = 64  # pieces of arguments


def new_message(model: str) -> wire.MessagesReply:
    """A message in which nothing has been said."""
    id = f"msg_{secrets.token_hex(12)}"
    return wire.MessagesReply(
        id=id, model=model, content=[], usage=message_usage(TokenCounts())
    )


class MessageBuilder:
    """One message under way.

    Without `thinking`, reasoning is not shown; with `omitted` its blocks have only
    the signature.
    """

    def __init__(
        self, reply: wire.MessagesReply, *, thinking: bool = True, omitted: bool = False
    ) -> None:
        self.reply = reply
        self._thinking = thinking
        self._omitted = omitted
        self._open: wire.ThinkingBlock | wire.TextBlock | wire.ToolUseBlock | None
        self._open, self._kind = None, object
        self._pieces: list[str] = []
        self._waited = 0  # pieces of arguments

    def begin(self, usage: TokenCounts) -> list[Event]:
        self.reply.usage = message_usage(usage)
        message = self.reply.model_dump()
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def feed(self, heard: Sequence[ParserEvent]) -> list[Event]:
        """Take what one token completed."""
        out: list[Event] = []
        for one in heard:
            match one:
                case Reasoning(text) if self._thinking:
                    block = wire.ThinkingBlock(thinking="", signature="")
                    out += self._begin(block, Reasoning)
                    if not self._omitted:
                        out += self._delta("thinking_delta", thinking=text)
                    self._pieces.append(text)
                case Preamble(text) | Answer(text):
                    out += self._begin(wire.TextBlock(text=""), type(one))
                    out += self._delta("text_delta", text=text)
                    self._pieces.append(text)
                case ToolCallDelta():
                    out += self._ping()
                case ToolCallFailed(cut_off=True):
                    pass  # clients run what they see of a block, whatever the reason
                case ToolCall(id, name, text) | ToolCallFailed(id, name, text):
                    block = wire.ToolUseBlock(id=id, name=name, input={})
                    out += self._begin(block, ToolCall)
                    block.input, written = arguments_object(text)
                    out += self._delta("input_json_delta", partial_json=written)
                case MessageEnded():
                    out += self.close()
        return out

    def close(self) -> list[Event]:
        """End the block that is open, if one is."""
        block, text = self._open, "".join(self._pieces)
        out: list[Event] = []
        match block:
            case None:
                return []
            case wire.ThinkingBlock():
                block.thinking = "" if self._omitted else text
                block.signature = seal(text)
                out += self._delta("signature_delta", signature=block.signature)
            case wire.TextBlock():
                block.text = text
        out.append({"type": "content_block_stop", "index": self._index})
        self._open, self._kind, self._pieces = None, object, []
        return out

    def end(
        self, reason: wire.StopReason, stop_sequence: str | None, usage: TokenCounts
    ) -> list[Event]:
        """Say how the turn ended; once."""
        out, reply = self.close(), self.reply
        reply.stop_reason, reply.stop_sequence = reason, stop_sequence
        reply.usage = message_usage(usage)
        fields = {"stop_reason", "stop_sequence", "stop_details", "container"}
        delta = reply.model_dump(include=fields)
        used = reply.usage.model_dump(include=set(wire.MessageDeltaUsage.model_fields))
        return [
            *out,
            {"type": "message_delta", "delta": delta, "usage": used},
            {"type": "message_stop"},
        ]

    @property
    def _index(self) -> int:
        return len(self.reply.content) - 1

    def _begin(self, block: wire.ContentBlock, kind: type) -> list[Event]:
        """Open a block, unless the one that is open goes on."""
        if self._open is not None and self._kind is kind:
            return []
        out = self.close()
        self._open, self._kind = block, kind
        self.reply.content.append(block)
        shown = block.model_dump()
        begun = {"type": "content_block_start", "index": self._index}
        return [*out, {**begun, "content_block": shown}]

    def _ping(self) -> list[Event]:
        """Give a sign of life now and then while arguments are written."""
        self._waited += 1
        return [] if self._waited % DELTAS_PER_PING else [{"type": "ping"}]

    def _delta(self, kind: str, **fields: Any) -> list[Event]:
        delta = {"type": kind, **fields}
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return [event]


def arguments_object(arguments: str) -> tuple[dict[str, Any], str]:
    """The arguments of a call as an object, and as its JSON; other text lies in one.

    An empty object would be run by a tool that needs no arguments.
    """
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found, arguments
    wrapped = {INVALID_JSON: arguments}
    return wrapped, json.dumps(wrapped)


def message_usage(usage: TokenCounts) -> wire.MessagesUsage:
    return wire.MessagesUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        output_tokens_details=wire.ThinkingTokensDetails(
            thinking_tokens=usage.reasoning_tokens
        ),
    )
