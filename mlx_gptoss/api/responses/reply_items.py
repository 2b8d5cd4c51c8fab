"""Output items of a response while they stream: each writes its events and its item.

    item = StreamedMessage(event, Answer)     # or StreamedReasoning, StreamedCall
    events = item.begin()                     # output_item.added, content_part.added
    events = item.delta("Hello", ())          # output_text.delta
    events = item.end(complete=True)          # …done
    item.item                                 # what the response lists

`event(name, **fields)` makes an event with the item's index and the next number.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from mlx_gptoss.api import ids
from mlx_gptoss.api.responses import wire
from mlx_gptoss.api.responses.tool_names import ToolOrigin
from mlx_gptoss.api.sealed import seal
from mlx_gptoss.api.settings import OPEN_RESPONSES, OPENAI
from mlx_gptoss.api.wire import StreamEvent, TokenLogprob
from mlx_gptoss.harmony.events import Preamble, Reasoning, Refusal

MakeEvent = Callable[..., StreamEvent]
ID_BYTES = 24
ADDED, DONE = "response.output_item.added", "response.output_item.done"
# The events of reasoning text, as OpenAI and as Open Responses name them.
REASONING_EVENT_NAMES = {
    OPENAI: "response.reasoning_text",
    OPEN_RESPONSES: "response.reasoning",
}
SUMMARY_TEXT = "response.reasoning_summary_text"
SUMMARY_PART = "response.reasoning_summary_part"


def new_id(prefix: str) -> str:
    return ids.new_id(f"{prefix}_", ID_BYTES)


class StreamedReasoning:
    """A reasoning item.

    With `summarized` the text is the summary as well, and the stream has the events of
    the summary only: a client that shows both would show the text twice. The item has
    both in the end. With `sealed` it also has the text as `encrypted_content`.
    """

    kind = Reasoning

    def __init__(
        self,
        event: MakeEvent,
        *,
        sealed: bool,
        summarized: bool,
        event_names: str = OPENAI,
    ) -> None:
        self.item = wire.ReasoningItem(
            id=new_id("rs"), status="in_progress", summary=[], content=[]
        )
        self._event = event
        self._sealed = sealed
        self._summarized = summarized
        self._text_event = REASONING_EVENT_NAMES[event_names]
        self._pieces: list[str] = []

    def begin(self) -> list[StreamEvent]:
        added = self._event(ADDED, item=self.item.model_dump())
        return [added, self._part_event("added", "")]

    def delta(self, text: str, logprobs: Sequence[object] = ()) -> list[StreamEvent]:
        self._pieces.append(text)
        return [self._text("delta", delta=text)]

    def end(self, *, complete: bool) -> list[StreamEvent]:
        item, text = self.item, "".join(self._pieces)
        item.content = [wire.ReasoningText(text=text)]
        item.summary = [wire.SummaryText(text=text)] if self._summarized else []
        item.status = "completed" if complete else "incomplete"
        if self._sealed:
            item.encrypted_content = seal(text)
        return [
            self._text("done", text=text),
            self._part_event("done", text),
            self._event(DONE, item=item.model_dump()),
        ]

    def _text(self, action: str, **fields: Any) -> StreamEvent:
        name = SUMMARY_TEXT if self._summarized else self._text_event
        return self._event(f"{name}.{action}", **self._location(), **fields)

    def _part_event(self, action: str, text: str) -> StreamEvent:
        name = SUMMARY_PART if self._summarized else "response.content_part"
        part_type = wire.SummaryText if self._summarized else wire.ReasoningText
        part = part_type(text=text).model_dump()
        return self._event(f"{name}.{action}", **self._location(), part=part)

    def _location(self) -> dict[str, Any]:
        index = "summary_index" if self._summarized else "content_index"
        return {"item_id": self.item.id, index: 0}


class StreamedMessage:
    """A message item: a preamble or an answer, by `kind`."""

    def __init__(self, event: MakeEvent, kind: type) -> None:
        self.kind = kind
        self.item = wire.MessageItem(
            id=new_id("msg"),
            status="in_progress",
            phase="commentary" if kind is Preamble else "final_answer",
            content=[],
        )
        self._event = event
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def begin(self) -> list[StreamEvent]:
        part = self._part().model_dump()
        return [
            self._event(ADDED, item=self.item.model_dump()),
            self._part_event("response.content_part.added", part=part),
        ]

    def delta(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[StreamEvent]:
        self._pieces.append(text)
        self._logprobs += logprobs
        fields = {"delta": text, "logprobs": [one.model_dump() for one in logprobs]}
        return [self._part_event("response.output_text.delta", **fields)]

    def end(self, *, complete: bool) -> list[StreamEvent]:
        item, part = self.item, self._part()
        item.content = [part]
        item.status = "completed" if complete else "incomplete"
        text = part.model_dump(include={"text", "logprobs"})
        return [
            self._part_event("response.output_text.done", **text),
            self._part_event("response.content_part.done", part=part.model_dump()),
            self._event(DONE, item=item.model_dump()),
        ]

    def _part(self) -> wire.OutputText:
        text = "".join(self._pieces)
        return wire.OutputText(text=text, annotations=[], logprobs=self._logprobs)

    def _part_event(self, name: str, **fields: Any) -> StreamEvent:
        return self._event(name, item_id=self.item.id, content_index=0, **fields)


class StreamedRefusal:
    """A message that says why there is no answer; it comes as a whole."""

    kind = Refusal

    def __init__(self, event: MakeEvent, text: str) -> None:
        self._part = wire.OutputRefusal(refusal=text)
        self.item = wire.MessageItem(
            id=new_id("msg"), status="in_progress", phase="final_answer", content=[]
        )
        self._event = event

    def begin(self) -> list[StreamEvent]:
        empty = wire.OutputRefusal(refusal="").model_dump()
        return [
            self._event(ADDED, item=self.item.model_dump()),
            self._part_event("response.content_part.added", part=empty),
        ]

    def delta(self, text: str, logprobs: Sequence[object] = ()) -> list[StreamEvent]:
        return [self._part_event("response.refusal.delta", delta=text)]

    def end(self, *, complete: bool) -> list[StreamEvent]:
        text, part = self._part.refusal, self._part.model_dump()
        self.item.content = [self._part]
        self.item.status = "completed" if complete else "incomplete"
        return [
            *self.delta(text),
            self._part_event("response.refusal.done", refusal=text),
            self._part_event("response.content_part.done", part=part),
            self._event(DONE, item=self.item.model_dump()),
        ]

    def _part_event(self, name: str, **fields: Any) -> StreamEvent:
        return self._event(name, item_id=self.item.id, content_index=0, **fields)


class StreamedCall:
    """The item of a call of a function, a custom tool, or the tool search.

    With `unwrap`, text that turns out to be a JSON object with a single string becomes
    that string: models that are used to JSON write text like this. A search has no
    events for its arguments, which are an object and not text.
    """

    def __init__(
        self,
        event: MakeEvent,
        call_id: str,
        origin: ToolOrigin,
        *,
        custom: bool,
        unwrap: bool,
    ) -> None:
        self._event = event
        self._unwrap = unwrap
        self._field = "input" if custom else "arguments"
        arguments = "custom_tool_call_input" if custom else "function_call_arguments"
        self._text_event = f"response.{arguments}"
        self._sent: list[str] = []
        self._held = ""
        self._final: str | None = None
        common: dict[str, Any] = {"status": "in_progress", "call_id": call_id}
        named = common | {"name": origin.name, "namespace": origin.namespace}
        self.item: wire.CallItem
        if origin.is_search:
            self.item = wire.SearchCallItem(id=new_id("tsc"), arguments={}, **common)
        elif custom:
            self.item = wire.CustomCallItem(id=new_id("ctc"), input="", **named)
        else:
            self.item = wire.FunctionCallItem(id=new_id("fc"), arguments="", **named)

    def begin(self) -> list[StreamEvent]:
        return [self._event(ADDED, item=self.item.model_dump())]

    def delta(self, text: str) -> list[StreamEvent]:
        if isinstance(self.item, wire.SearchCallItem):
            self._held += text
            return []
        if self._unwrap and not self._sent:  # it may be JSON
            self._held += text
            if (self._held.lstrip() or "{").startswith("{"):
                return []
            text, self._held = self._held, ""
        self._sent.append(text)
        return [self._delta_event(text)]

    def set_final(self, text: str) -> None:
        """Set the text that the tool is to be called with."""
        self._final = unwrap_text(text) if self._unwrap else text

    def end(self, *, complete: bool) -> list[StreamEvent]:
        sent = "".join(self._sent)
        text = sent + self._held if self._final is None else self._final
        self.item.status = "completed" if complete else "incomplete"
        if isinstance(self.item, wire.SearchCallItem):
            self.item.arguments = parse_arguments(text)
            return [self._event(DONE, item=self.item.model_dump())]
        rest = text.removeprefix(sent) if text.startswith(sent) else ""
        setattr(self.item, self._field, text)
        fields = {"item_id": self.item.id, self._field: text}
        if isinstance(self.item, wire.FunctionCallItem):
            fields["name"] = self.item.name
        return [
            *([self._delta_event(rest)] if rest else []),
            self._event(f"{self._text_event}.done", **fields),
            self._event(DONE, item=self.item.model_dump()),
        ]

    def _delta_event(self, text: str) -> StreamEvent:
        name = f"{self._text_event}.delta"
        return self._event(name, item_id=self.item.id, delta=text)


StreamedItem = StreamedReasoning | StreamedMessage | StreamedRefusal | StreamedCall


def parse_arguments(text: str) -> Any:
    """Return the JSON value of arguments, or the text if it is not JSON."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


def unwrap_text(text: str) -> str:
    """Return the only string of a JSON object; any other text unchanged."""
    value = parse_arguments(text)
    if isinstance(value, dict) and len(value) == 1:
        [inner] = value.values()
        if isinstance(inner, str):
            return inner
    return text
