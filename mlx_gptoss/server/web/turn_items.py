"""The parts of a turn as the page shows them, built from the events of `Chat.send`.

    {"kind": "reasoning", "text": "…", "seconds": 2.1}
    {"kind": "preamble" | "answer", "text": "…"}
    {"kind": "call", "id": "call_1", "name": "python", "arguments": "…",
     "state": "running" | "asking" | "done" | "refused" | "open", "result": "…"}

Knows events; nothing of models or of how parts are sent.
"""

import time
from collections.abc import Callable
from typing import Any

from mlx_gptoss.chat.tools.approval import REFUSED
from mlx_gptoss.harmony.events import (
    Answer,
    Event,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)

TEXT_KINDS: dict[type[Event], str] = {
    Reasoning: "reasoning",
    Preamble: "preamble",
    Answer: "answer",
}
RUNNING, ASKING, FINISHED, DENIED, OPEN = "running", "asking", "done", "refused", "open"
NOT_ALLOWED = (REFUSED, "Error: the user does not allow ")


class TurnItems:
    """The parts of a turn in progress; `clock` measures how long reasoning takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.items: list[dict[str, Any]] = []
        self._clock = clock
        self._began = 0.0  # when the last reasoning did

    def take(self, event: Event) -> tuple[int, str | None] | None:
        """Add an event; return the part that changed, and the text appended to it.

        The text is None if the part is new or changed otherwise; None for an event
        without a part.
        """
        kind = TEXT_KINDS.get(type(event))
        if kind is not None:
            assert isinstance(event, Reasoning | Preamble | Answer)
            return self._append(kind, event.text)
        if isinstance(event, ToolCall | ToolCallFailed):
            self._end_reasoning()
            self.items.append(_call_item(event))
            return len(self.items) - 1, None
        if isinstance(event, ToolResult):
            return self._finish(event.id, event.text)
        self._end_reasoning()
        return None

    def set_state(self, id: str, state: str) -> int | None:
        """Set the state of a call; return its place, or None if it is unknown."""
        place = self._place(id)
        if place is not None:
            self.items[place]["state"] = state
        return place

    def _append(self, kind: str, text: str) -> tuple[int, str | None]:
        if self.items and self.items[-1]["kind"] == kind:
            self.items[-1]["text"] += text
            return len(self.items) - 1, text
        self._end_reasoning()
        self.items.append({"kind": kind, "text": text})
        self._began = self._clock()
        return len(self.items) - 1, None

    def _end_reasoning(self) -> None:
        last = self.items[-1] if self.items else {}
        if last.get("kind") == "reasoning" and "seconds" not in last:
            last["seconds"] = round(self._clock() - self._began, 1)

    def _finish(self, id: str, text: str) -> tuple[int, None] | None:
        place = self._place(id)
        if place is None:
            return None
        self.items[place] |= {"state": result_state(text), "result": text}
        return place, None

    def _place(self, id: str) -> int | None:
        calls = enumerate(self.items)
        return next((n for n, one in calls if one.get("id") == id), None)


def result_state(text: str) -> str:
    """Return the state of a call with this result."""
    return DENIED if text.startswith(NOT_ALLOWED) else FINISHED


def _call_item(event: ToolCall | ToolCallFailed) -> dict[str, Any]:
    failed = isinstance(event, ToolCallFailed)
    item = {
        "kind": "call",
        "id": event.id,
        "name": event.name,
        "arguments": event.text if failed else event.arguments,
        "state": OPEN if failed and event.cut_off else RUNNING,
    }
    return item | {"problem": event.problem} if failed else item
