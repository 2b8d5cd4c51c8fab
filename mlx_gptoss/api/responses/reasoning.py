"""Reasoning of a response, while its text is coming: its item and its events.

It is told as the model thinks it. Where a summary is asked for, the text is the
summary, too, and its stream has the events of the summary alone: who shows both would
show it twice. The item has both at its end.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mlx_gptoss.api.responses import wire
from mlx_gptoss.api.sealed import seal
from mlx_gptoss.api.settings import OPEN_RESPONSES, OPENAI
from mlx_gptoss.harmony.events import Reasoning

Event = dict[str, Any]
SUMMARIES = ("auto", "concise", "detailed")
# The events of the text, as OpenAI names them and as Open Responses does.
TEXT_EVENTS = {
    OPENAI: "response.reasoning_text",
    OPEN_RESPONSES: "response.reasoning",
}
SUMMARY_TEXT = "response.reasoning_summary_text"
SUMMARY_PART = "response.reasoning_summary_part"


class StreamedReasoning:
    """A reasoning item that is being written.

    `event` makes an event of its name and fields. A `sealed` one also has its text
    where only this server can read it.
    """

    kind = Reasoning

    def __init__(
        self,
        item: wire.ReasoningItem,
        event: Callable[..., Event],
        *,
        sealed: bool,
        summarized: bool,
        names: str = OPENAI,
    ) -> None:
        self._item = item
        self._event = event
        self._sealed = sealed
        self._summarized = summarized
        self._text_event = TEXT_EVENTS[names]
        self._pieces: list[str] = []

    def begin(self) -> list[Event]:
        added = self._event("response.output_item.added", item=self._item.model_dump())
        return [added, self._part_event("added", "")]

    def delta(self, text: str, logprobs: Sequence[object] = ()) -> list[Event]:
        self._pieces.append(text)
        return [self._text("delta", delta=text)]

    def end(self, *, complete: bool) -> list[Event]:
        item, text = self._item, "".join(self._pieces)
        item.content = [wire.ReasoningText(text=text)]
        item.summary = [wire.SummaryText(text=text)] if self._summarized else []
        item.status = "completed" if complete else "incomplete"
        if self._sealed:
            item.encrypted_content = seal(text)
        return [
            self._text("done", text=text),
            self._part_event("done", text),
            self._event("response.output_item.done", item=item.model_dump()),
        ]

    def _text(self, what: str, **fields: Any) -> Event:
        kind = SUMMARY_TEXT if self._summarized else self._text_event
        return self._event(f"{kind}.{what}", **self._place(), **fields)

    def _part_event(self, what: str, text: str) -> Event:
        kind = SUMMARY_PART if self._summarized else "response.content_part"
        made = wire.SummaryText if self._summarized else wire.ReasoningText
        part = made(text=text).model_dump()
        return self._event(f"{kind}.{what}", **self._place(), part=part)

    def _place(self) -> dict[str, Any]:
        index = "summary_index" if self._summarized else "content_index"
        return {"item_id": self._item.id, index: 0}


def wants_summary(given: str | None) -> bool:
    """Whether what a request says of summaries asks for one."""
    return given in SUMMARIES
