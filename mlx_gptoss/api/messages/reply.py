"""Write a message: events of an answer to content blocks and to a stream's events.

    builder = MessageBuilder(new_message(model))
    events = builder.begin(usage)         # message_start, ping
    events = builder.feed(parsed.events)  # content_block_start, _delta, _stop
    events = builder.end(reason, None, usage)   # message_delta, message_stop
    builder.reply                         # the message

Whole replies are built by the same steps as streams, so both say the same. A call gets
its block once it is complete: an unfinished call has none, in streams either.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from mlx_gptoss.api.call_arguments import arguments_object
from mlx_gptoss.api.generation import AnswerStream, TokenCounts
from mlx_gptoss.api.ids import new_id
from mlx_gptoss.api.messages import wire
from mlx_gptoss.api.sealed import seal
from mlx_gptoss.api.wire import StreamedProgress, StreamEvent
from mlx_gptoss.engine.outputs import CONTENT_FILTER, STOP, TOOL_CALLS
from mlx_gptoss.harmony.events import (
    Answer,
    MessageEnded,
    ParserEvent,
    Preamble,
    Reasoning,
    Refusal,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
)

DELTAS_PER_PING = 64  # while the arguments of a call are generated


def new_message(model: str) -> wire.MessagesReply:
    """Return an empty message."""
    id = new_id("msg_", 12)
    usage = message_usage(TokenCounts())
    return wire.MessagesReply(id=id, model=model, content=[], usage=usage)


class MessageBuilder:
    """Builds one message.

    Without `thinking` it has no reasoning; with `omitted` its thinking blocks have only
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
        self._argument_deltas = 0

    def begin(self, usage: TokenCounts) -> list[StreamEvent]:
        self.reply.usage = message_usage(usage)
        message = self.reply.model_dump()
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def feed(self, events: Sequence[ParserEvent]) -> list[StreamEvent]:
        """Take the events of one token."""
        out: list[StreamEvent] = []
        for event in events:
            match event:
                case Reasoning(text) if self._thinking:
                    block = wire.ThinkingBlock(thinking="", signature="")
                    out += self._begin_block(block, Reasoning)
                    if not self._omitted:
                        out += self._delta("thinking_delta", thinking=text)
                    self._pieces.append(text)
                case Preamble(text) | Answer(text):
                    out += self._begin_block(wire.TextBlock(text=""), type(event))
                    out += self._delta("text_delta", text=text)
                    self._pieces.append(text)
                case Refusal(text):
                    self.reply.stop_details = wire.RefusalDetails(explanation=text)
                case ToolCallDelta():
                    out += self._ping()
                case ToolCallFailed(cut_off=True):
                    pass  # clients run every block they get, so it has none
                case ToolCall(id, name, text) | ToolCallFailed(id, name, text):
                    block = wire.ToolUseBlock(id=id, name=name, input={})
                    out += self._begin_block(block, ToolCall)
                    block.input, input_json = arguments_object(text)
                    out += self._delta("input_json_delta", partial_json=input_json)
                case MessageEnded():
                    out += self.close()
        return out

    def close(self) -> list[StreamEvent]:
        """End the open block, if there is one."""
        block, text = self._open, "".join(self._pieces)
        out: list[StreamEvent] = []
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
    ) -> list[StreamEvent]:
        """Finish the message, once."""
        out, reply = self.close(), self.reply
        reply.stop_reason, reply.stop_sequence = reason, stop_sequence
        reply.usage = message_usage(usage)
        fields = {"stop_reason", "stop_sequence", "stop_details", "container"}
        delta = reply.model_dump(include=fields)
        usage_fields = set(wire.MessageDeltaUsage.model_fields)
        delta_usage = reply.usage.model_dump(include=usage_fields)
        return [
            *out,
            {"type": "message_delta", "delta": delta, "usage": delta_usage},
            {"type": "message_stop"},
        ]

    @property
    def _index(self) -> int:
        return len(self.reply.content) - 1

    def _begin_block(self, block: wire.ContentBlock, kind: type) -> list[StreamEvent]:
        """Open a block, unless the open one is of the same kind."""
        if self._open is not None and self._kind is kind:
            return []
        out = self.close()
        self._open, self._kind = block, kind
        self.reply.content.append(block)
        start = {"type": "content_block_start", "index": self._index}
        return [*out, {**start, "content_block": block.model_dump()}]

    def _ping(self) -> list[StreamEvent]:
        """Send a ping now and then while arguments are generated."""
        self._argument_deltas += 1
        return [] if self._argument_deltas % DELTAS_PER_PING else [{"type": "ping"}]

    def _delta(self, kind: str, **fields: Any) -> list[StreamEvent]:
        delta = {"type": kind, **fields}
        return [{"type": "content_block_delta", "index": self._index, "delta": delta}]


async def stream_events(
    answer: AnswerStream, builder: MessageBuilder
) -> AsyncIterator[StreamEvent]:
    """Yield all events of a stream."""
    for event in builder.begin(answer.usage):
        yield event
    async for token in answer:
        if token.progress is not None:
            progress = StreamedProgress.of(token.progress).model_dump()
            yield {"type": "ping", "prompt_progress": progress}
        for event in builder.feed(token.events):
            yield event
    stop_sequence = answer.parser.stop_string
    for event in builder.end(stop_reason(answer), stop_sequence, answer.usage):
        yield event


async def build_reply(
    answer: AnswerStream, builder: MessageBuilder
) -> wire.MessagesReply:
    """Consume an answer and return the whole message."""
    async for _ in stream_events(answer, builder):
        pass
    return builder.reply


def stop_reason(answer: AnswerStream) -> wire.StopReason:
    """Return the `stop_reason` of a finished answer."""
    if answer.finish_reason == TOOL_CALLS:
        return "tool_use"
    if answer.finish_reason == CONTENT_FILTER:
        return "refusal"
    if answer.finish_reason == STOP:
        return "end_turn" if answer.parser.stop_string is None else "stop_sequence"
    limit, used = answer.prompt.params.max_tokens, answer.usage.completion_tokens
    limit_reached = limit is not None and used >= limit
    looped = answer.stats is not None and answer.stats.ended_in_loop
    if limit_reached or looped:
        return "max_tokens"
    return "model_context_window_exceeded"


def message_usage(counts: TokenCounts) -> wire.MessagesUsage:
    return wire.MessagesUsage(
        input_tokens=counts.prompt_tokens - counts.cached_tokens,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=counts.cached_tokens,
        output_tokens=counts.completion_tokens,
        output_tokens_details=wire.ThinkingTokensDetails(
            thinking_tokens=counts.reasoning_tokens
        ),
    )
