"""Write a response: events of an answer to items and to the events of its stream.

    builder = ResponseBuilder(reply, text_tools={"apply_patch"})
    events = builder.begin()               # response.created, response.in_progress
    events = builder.feed(parsed.events)   # items, their parts, deltas
    events = builder.end(reason, usage)    # response.completed | .incomplete
    builder.reply                          # the response, which the last event carries

Whole replies are built by the same steps as streams, so both say the same. Events are
JSON objects with consecutive numbers. The deltas of an item join to its text, except
for arguments that had to be repaired: the final event has those. An unfinished call
has no final event and is not an item of the response.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.generation import TokenCounts
from mlx_gptoss.api.responses import wire
from mlx_gptoss.api.responses.reply_items import (
    ADDED,
    DONE,
    StreamedCall,
    StreamedItem,
    StreamedMessage,
    StreamedReasoning,
    StreamedRefusal,
)
from mlx_gptoss.api.responses.tool_names import ToolNames
from mlx_gptoss.api.settings import OPENAI
from mlx_gptoss.api.wire import (
    JsonObject,
    StreamedProgress,
    StreamEvent,
    TokenLogprob,
)
from mlx_gptoss.engine.outputs import CANCELLED, CONTENT_FILTER, LENGTH
from mlx_gptoss.engine.prompt_progress import PromptProgress
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
    ToolCallStarted,
)
from mlx_gptoss.harmony.messages import Message

CUT_REASONS: Mapping[str, Literal["max_output_tokens", "content_filter"]] = {
    LENGTH: "max_output_tokens",
    CONTENT_FILTER: "content_filter",
}


class ResponseBuilder:
    """Builds one response.

    `text_tools` take plain text; `grammar_tools` are those of them with a grammar.
    `reasoning_events` selects the event names of reasoning text (see settings);
    `compaction` is the first item, if the conversation was summarized.
    """

    def __init__(
        self,
        reply: wire.ResponseReply,
        *,
        text_tools: Collection[str] = (),
        grammar_tools: Collection[str] = (),
        names: ToolNames | None = None,
        sealed: bool = False,
        summarized: bool = False,
        reasoning_events: str = OPENAI,
        compaction: JsonObject | None = None,
    ) -> None:
        self.reply = reply
        self._compaction = compaction
        self._names = names or ToolNames()
        self._text_tools = text_tools
        self._grammar_tools = grammar_tools
        self._new_reasoning = partial(
            StreamedReasoning,
            sealed=sealed,
            summarized=summarized,
            event_names=reasoning_events,
        )
        self._sequence_number = 0
        self._open: StreamedItem | None = None

    def begin(self) -> list[StreamEvent]:
        """Begin, once."""
        out = [
            self.event("response.created", response=self.snapshot()),
            self.event("response.in_progress", response=self.snapshot()),
        ]
        if (item := self._compaction) is not None:
            event = self._item_event()
            self.reply.output.append(wire.CompactionItem.model_validate(item))
            out += [event(ADDED, item=item), event(DONE, item=item)]
        return out

    def feed(
        self, events: Sequence[ParserEvent], logprobs: Sequence[TokenLogprob] = ()
    ) -> list[StreamEvent]:
        """Take the events of one token; `logprobs` belong to the text in them."""
        out: list[StreamEvent] = []
        for event in events:
            match event:
                case Reasoning(text) | Preamble(text) | Answer(text):
                    out += self._text(type(event), text, logprobs)
                    logprobs = ()
                case Refusal(text):
                    out += self._close(complete=True)
                    refusal = StreamedRefusal(self._item_event(), text)
                    out += self._begin(refusal) + self._close(complete=True)
                case ToolCallStarted(call_id, name):
                    out += self._begin_call(call_id, name)
                case ToolCallDelta(_, text) if isinstance(self._open, StreamedCall):
                    out += self._open.delta(text)
                case ToolCall(_, _, text) | ToolCallFailed(_, _, text):
                    if isinstance(self._open, StreamedCall):
                        self._open.set_final(text)
                case MessageEnded(message, complete):
                    if complete and self._open is None and is_empty_answer(message):
                        out += self._text(Answer, "", ())
                    out += self._close(complete=complete)
        return out

    def report(self, progress: PromptProgress) -> StreamEvent:
        """Tell how the prompt is read, with an event that may come repeatedly."""
        return self.event(
            "response.in_progress",
            response=self.snapshot(),
            prompt_progress=StreamedProgress.of(progress).model_dump(),
        )

    def end(
        self, reason: str, usage: TokenCounts, details: Sequence[str] = ()
    ) -> list[StreamEvent]:
        """Finish the response, once, with the finish reason of its answer."""
        out = self._close(complete=False)
        reply = self.reply
        reply.usage = response_usage(usage)
        reply.finish_details = list(details)
        if reason in CUT_REASONS:
            reply.status = "incomplete"
            reply.incomplete_details = wire.IncompleteDetails(
                reason=CUT_REASONS[reason]
            )
        else:
            reply.status = "cancelled" if reason == CANCELLED else "completed"
        reply.completed_at = int(time.time())
        kind = "completed" if reply.status == "completed" else "incomplete"
        return [*out, self.event(f"response.{kind}", response=self.snapshot())]

    def fail(self, error: ApiError) -> list[StreamEvent]:
        """Report an error of the server within the stream.

        `response.failed` comes first, where some clients stop reading; others, such as
        OpenAI's library, raise the `error` event that follows.
        """
        if isinstance(self._open, StreamedCall):
            self._close(complete=False)
        code = "server_error" if error.status >= 500 else error.code or "invalid_prompt"
        self.reply.status = "failed"
        self.reply.error = wire.ResponseError(code=code, message=error.message)
        fields = {"code": error.code, "message": error.message, "param": error.param}
        return [
            self.event("response.failed", response=self.snapshot()),
            self.event("error", **fields, **error.body),
        ]

    def snapshot(self) -> dict[str, Any]:
        """Return the response so far as a JSON object."""
        return self.reply.model_dump()

    def event(self, name: str, /, **fields: Any) -> StreamEvent:
        number, self._sequence_number = self._sequence_number, self._sequence_number + 1
        return {"type": name, "sequence_number": number, **fields}

    def _text(
        self, kind: type, text: str, logprobs: Sequence[TokenLogprob]
    ) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        item = self._open
        if item is None or isinstance(item, StreamedCall) or item.kind is not kind:
            out += self._close(complete=True)
            event = self._item_event()
            item = (
                self._new_reasoning(event)
                if kind is Reasoning
                else StreamedMessage(event, kind)
            )
            out += self._begin(item)
        return out + item.delta(text, logprobs) if text else out

    def _begin_call(self, call_id: str, name: str) -> list[StreamEvent]:
        closed = self._close(complete=True)
        custom = name in self._text_tools
        call = StreamedCall(
            self._item_event(),
            call_id,
            self._names.origin_of(name),
            custom=custom,
            unwrap=custom and name not in self._grammar_tools,
        )
        return closed + self._begin(call)

    def _item_event(self) -> Any:
        """Return `event` for the item that comes next."""
        return partial(self.event, output_index=len(self.reply.output))

    def _begin(self, item: StreamedItem) -> list[StreamEvent]:
        self._open = item
        self.reply.output.append(item.item)
        return item.begin()

    def _close(self, *, complete: bool) -> list[StreamEvent]:
        item, self._open = self._open, None
        if isinstance(item, StreamedCall) and not complete:
            # Clients run a call at its `output_item.done`, whatever its status: an
            # unfinished call has none, and is not an item of the response.
            self.reply.output.pop()
            return []
        return item.end(complete=complete) if item else []


def is_empty_answer(message: Message) -> bool:
    """Whether a message is an answer without text, which is an item as well."""
    return (message.role, message.channel, message.text) == ("assistant", "final", "")


def response_usage(counts: TokenCounts) -> wire.ResponseUsage:
    return wire.ResponseUsage(
        input_tokens=counts.prompt_tokens,
        input_tokens_details=wire.InputTokensDetails(
            cached_tokens=counts.cached_tokens, cache_write_tokens=0
        ),
        output_tokens=counts.completion_tokens,
        output_tokens_details=wire.OutputTokensDetails(
            reasoning_tokens=counts.reasoning_tokens
        ),
        total_tokens=counts.prompt_tokens + counts.completion_tokens,
    )
