"""What is heard, as the items of a response and as the events of its stream.

    output = Output(reply, text_tools={"apply_patch"})
    events = output.begin()               # response.created, response.in_progress
    events = output.feed(heard.events)    # items, their parts, deltas
    events = output.end(turn...)          # response.completed | .incomplete
    output.reply                          # the response, which the last event carries

A whole reply is made by the same steps, so that both ways say the same. Events are
JSON values with consecutive numbers. The deltas of an item join to its text, but for
arguments that had to be repaired: there the event at the end has them right. A call
that is cut has no end, and is no item of the response.
"""

import json
import secrets
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from mlx_gptoss.api.chat.wire import TokenLogprob
from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.generation import TokenCounts
from mlx_gptoss.api.responses import wire
from mlx_gptoss.api.responses.reasoning import StreamedReasoning
from mlx_gptoss.api.responses.tool_names import ToolNames, ToolOrigin
from mlx_gptoss.api.settings import OPENAI
from mlx_gptoss.engine.outputs import CANCELLED, LENGTH
from mlx_gptoss.harmony.events import (
    Answer,
    MessageEnded,
    ParserEvent,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallDelta,
    ToolCallFailed,
    ToolCallStarted,
)
from mlx_gptoss.harmony.messages import Message

Event = dict[str, Any]
ID_BYTES = 24


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(ID_BYTES)}"


class ResponseBuilder:
    """One response under way."""

    def __init__(
        self,
        reply: wire.ResponseReply,
        *,
        text_tools: Collection[str] = (),
        bound_tools: Collection[str] = (),
        names: ToolNames | None = None,
        sealed: bool = False,
        summarized: bool = False,
        reasoning_events: str = OPENAI,
    ) -> None:
        self.reply = reply
        self._names = names or ToolNames()
        self._text_tools = text_tools
        self._bound_tools = bound_tools  # of the text tools, those with a grammar
        self._new_reasoning = partial(
            StreamedReasoning,
            sealed=sealed,
            summarized=summarized,
            names=reasoning_events,
        )
        self._number = 0
        self._open: StreamedReasoning | StreamedMessage | StreamedCall | None = None

    def begin(self) -> list[Event]:
        return [
            self.event("response.created", response=self.snapshot()),
            self.event("response.in_progress", response=self.snapshot()),
        ]

    def feed(
        self, heard: Sequence[ParserEvent], logprobs: Sequence[TokenLogprob] = ()
    ) -> list[Event]:
        """Take what one token completed; `logprobs` are of the text in it."""
        out: list[Event] = []
        for one in heard:
            match one:
                case Reasoning(text) | Preamble(text) | Answer(text):
                    out += self._text(type(one), text, logprobs)
                    logprobs = ()
                case ToolCallStarted(call_id, name):
                    out += self._begin_call(call_id, name)
                case ToolCallDelta(_, text) if isinstance(self._open, StreamedCall):
                    out += self._open.delta(text)
                case ToolCall(_, _, text) if isinstance(self._open, StreamedCall):
                    out += self._open.whole(text)
                case ToolCallFailed(_, _, text) if isinstance(self._open, StreamedCall):
                    out += self._open.whole(text)
                case MessageEnded(message, complete):
                    if complete and self._open is None and is_empty_answer(message):
                        out += self._text(Answer, "", ())
                    out += self._close(complete=complete)
        return out

    def end(
        self, reason: str, usage: TokenCounts, details: Sequence[str] = ()
    ) -> list[Event]:
        """Say how the turn ended; once."""
        out = self._close(complete=False)
        reply = self.reply
        reply.usage = response_usage(usage)
        reply.finish_details = list(details)
        if reason == LENGTH:
            reply.status = "incomplete"
            reply.incomplete_details = wire.IncompleteDetails(
                reason="max_output_tokens"
            )
        else:
            reply.status = "cancelled" if reason == CANCELLED else "completed"
        reply.completed_at = int(time.time())
        kind = "completed" if reply.status == "completed" else "incomplete"
        return [*out, self.event(f"response.{kind}", response=self.snapshot())]

    def fail(self, error: ApiError) -> list[Event]:
        """Say that the server failed in the middle of it.

        The response that failed comes first, which is where some clients stop to read;
        others raise what comes as an `error`, as OpenAI's own library does.
        """
        if isinstance(self._open, StreamedCall):
            self._close(complete=False)
        code = "server_error" if error.status >= 500 else error.code or "invalid_prompt"
        self.reply.status = "failed"
        self.reply.error = wire.ResponseError(code=code, message=error.message)
        flat = {"code": error.code, "message": error.message, "param": error.param}
        return [
            self.event("response.failed", response=self.snapshot()),
            self.event("error", **flat, **error.body),
        ]

    def snapshot(self) -> dict[str, Any]:
        return self.reply.model_dump()

    def event(self, kind: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _text(
        self, kind: type, text: str, logprobs: Sequence[TokenLogprob]
    ) -> list[Event]:
        out: list[Event] = []
        opened = self._open
        if (
            opened is None
            or isinstance(opened, StreamedCall)
            or opened.kind is not kind
        ):
            out += self._close(complete=True)
            opened = self._open = self._new_text(kind)
            out += opened.begin()
        return out + opened.delta(text, logprobs) if text else out

    def _new_text(self, kind: type) -> "StreamedReasoning | StreamedMessage":
        if kind is not Reasoning:
            return StreamedMessage(self, kind)
        item = wire.ReasoningItem(
            id=new_id("rs"), status="in_progress", summary=[], content=[]
        )
        event = partial(self.event, output_index=len(self.reply.output))
        self.reply.output.append(item)
        return self._new_reasoning(item, event)

    def _begin_call(self, call_id: str, name: str) -> list[Event]:
        out = self._close(complete=True)
        custom = name in self._text_tools
        unwrap = custom and name not in self._bound_tools
        origin = self._names.origin(name)
        self._open = StreamedCall(self, call_id, origin, custom=custom, unwrap=unwrap)
        return out + self._open.begin()

    def _close(self, *, complete: bool) -> list[Event]:
        opened, self._open = self._open, None
        if isinstance(opened, StreamedCall) and not complete:
            # Clients run a call at its `output_item.done`, whatever its status: half
            # a call has none, and is no item of the response.
            self.reply.output.pop()
            return []
        return opened.end(complete=complete) if opened else []


class StreamedMessage:
    """A message, while its text is coming."""

    def __init__(self, output: ResponseBuilder, kind: type) -> None:
        self.kind = kind
        self._output = output
        self._index = len(output.reply.output)
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._item = wire.MessageItem(
            id=new_id("msg"),
            status="in_progress",
            phase="commentary" if kind is Preamble else "final_answer",
            content=[],
        )
        output.reply.output.append(self._item)

    def begin(self) -> list[Event]:
        item = self._item.model_dump()
        part = self._part().model_dump()
        return [
            self._event("response.output_item.added", item=item),
            self._at_part("response.content_part.added", part=part),
        ]

    def delta(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[Event]:
        self._pieces.append(text)
        self._logprobs += logprobs
        shown = [one.model_dump() for one in logprobs]
        return [self._at_part("response.output_text.delta", delta=text, logprobs=shown)]

    def end(self, *, complete: bool) -> list[Event]:
        item, part = self._item, self._part()
        item.content = [part]
        item.status = "completed" if complete else "incomplete"
        said = part.model_dump(include={"text", "logprobs"})
        return [
            self._at_part("response.output_text.done", **said),
            self._at_part("response.content_part.done", part=part.model_dump()),
            self._event("response.output_item.done", item=item.model_dump()),
        ]

    def _part(self) -> wire.OutputText:
        text = "".join(self._pieces)
        return wire.OutputText(text=text, annotations=[], logprobs=self._logprobs)

    def _at_part(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self._item.id, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        return self._output.event(kind, output_index=self._index, **fields)


class StreamedCall:
    """A call, while its arguments or its text are coming.

    With `unwrap`, text that turns out to be a JSON object with one string is that
    string: so do models write a text who are used to JSON. A search has no events of
    its arguments, which are an object and no text.
    """

    def __init__(
        self,
        output: ResponseBuilder,
        call_id: str,
        origin: ToolOrigin,
        *,
        custom: bool,
        unwrap: bool,
    ) -> None:
        self._output = output
        self._unwrap = unwrap
        self._index = len(output.reply.output)
        self._field = "input" if custom else "arguments"
        self._kind = "custom_tool_call_input" if custom else "function_call_arguments"
        self._sent: list[str] = []
        self._held = ""
        common: dict[str, Any] = {"status": "in_progress", "call_id": call_id}
        named = {"name": origin.name, "namespace": origin.namespace}
        self._item: wire.CallItem
        if origin.is_search:
            self._item = wire.SearchCallItem(id=new_id("tsc"), arguments={}, **common)
        elif custom:
            common |= named
            self._item = wire.CustomCallItem(id=new_id("ctc"), input="", **common)
        else:
            common |= named
            self._item = wire.FunctionCallItem(id=new_id("fc"), arguments="", **common)
        self._whole: str | None = None
        output.reply.output.append(self._item)

    def begin(self) -> list[Event]:
        return [self._event("response.output_item.added", item=self._item.model_dump())]

    def delta(self, text: str) -> list[Event]:
        if isinstance(self._item, wire.SearchCallItem):
            self._held += text
            return []
        if self._unwrap and not self._sent:  # it may be JSON
            self._held += text
            if (self._held.lstrip() or "{").startswith("{"):
                return []
            text, self._held = self._held, ""
        self._sent.append(text)
        return [self._event(f"response.{self._kind}.delta", **self._id(), delta=text)]

    def whole(self, text: str) -> list[Event]:
        """Take the text as it is to be given to the tool."""
        self._whole = unwrap_text(text) if self._unwrap else text
        return []

    def end(self, *, complete: bool) -> list[Event]:
        sent = "".join(self._sent)
        text = sent + self._held if self._whole is None else self._whole
        self._item.status = "completed" if complete else "incomplete"
        if isinstance(self._item, wire.SearchCallItem):
            self._item.arguments = parse_arguments(text)
            return [self._done()]
        rest = text.removeprefix(sent) if text.startswith(sent) else ""
        out: list[Event] = []
        if rest:
            kind = f"response.{self._kind}.delta"
            out.append(self._event(kind, **self._id(), delta=rest))
        setattr(self._item, self._field, text)
        done = {**self._id(), self._field: text}
        if isinstance(self._item, wire.FunctionCallItem):
            done["name"] = self._item.name
        return [
            *out,
            self._event(f"response.{self._kind}.done", **done),
            self._done(),
        ]

    def _done(self) -> Event:
        return self._event("response.output_item.done", item=self._item.model_dump())

    def _id(self) -> dict[str, Any]:
        return {"item_id": self._item.id}

    def _event(self, kind: str, **fields: Any) -> Event:
        return self._output.event(kind, output_index=self._index, **fields)


def is_empty_answer(message: Message) -> bool:
    """Whether the model answered with nothing, which is an answer, too."""
    return (message.role, message.channel, message.text) == ("assistant", "final", "")


def parse_arguments(text: str) -> Any:
    """The JSON of arguments; a text that is none stays one."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


def unwrap_text(text: str) -> str:
    """The string in a JSON object that has nothing else; any other text as it is."""
    value = parse_arguments(text)
    if isinstance(value, dict) and len(value) == 1:
        [inner] = value.values()
        if isinstance(inner, str):
            return inner
    return text


def response_usage(usage: TokenCounts) -> wire.ResponseUsage:
    return wire.ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=wire.InputTokensDetails(
            cached_tokens=usage.cached_tokens, cache_write_tokens=0
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=wire.OutputTokensDetails(
            reasoning_tokens=usage.reasoning_tokens
        ),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
