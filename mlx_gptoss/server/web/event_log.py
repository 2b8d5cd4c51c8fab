"""Numbered events of one conversation, kept for tabs that come back.

    log.add("delta", {"at": 0, "text": "Hel"})
    log.since(7)             # the events after number 7; None if some are gone
    await log.wait(7, 1.0)   # until there is one after number 7, at most a second

A tab that missed more than is kept gets the whole conversation instead. For one event
loop.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

KEPT = 4096  # events


@dataclass(frozen=True)
class PageEvent:
    """An event: its number, its name and its JSON value."""

    number: int
    name: str
    value: Any


class EventLog:
    """The last events of a conversation; numbers begin at 1."""

    def __init__(self, kept: int = KEPT) -> None:
        self.last = 0  # the number of the last event
        self._events: deque[PageEvent] = deque(maxlen=kept)
        self._added = asyncio.Event()

    def add(self, name: str, value: Any) -> None:
        """Append an event, and wake whoever waits."""
        self.last += 1
        self._events.append(PageEvent(self.last, name, value))
        self._wake()

    def restart(self) -> None:
        """Forget the events: whoever comes back gets the conversation as a whole."""
        self.last += 1
        self._events.clear()
        self._wake()

    def since(self, number: int) -> list[PageEvent] | None:
        """Return the events after `number`; None if it is unknown or too long ago."""
        missed = self.last - number
        if missed < 0 or missed > len(self._events):
            return None
        return list(self._events)[len(self._events) - missed :]

    async def wait(self, number: int, seconds: float) -> None:
        """Wait for an event after `number`, at most `seconds`."""
        added = self._added
        if self.last > number:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await added.wait()

    def _wake(self) -> None:
        self._added.set()
        self._added = asyncio.Event()


def merge_deltas(events: list[PageEvent]) -> list[PageEvent]:
    """Join pieces of text that follow each other in the same part of a turn."""
    merged: list[PageEvent] = []
    for event in events:
        before = merged[-1] if merged else None
        if (
            before is not None
            and before.name == event.name == "delta"
            and before.value["at"] == event.value["at"]
        ):
            text = before.value["text"] + event.value["text"]
            value = {"at": event.value["at"], "text": text}
            merged[-1] = PageEvent(event.number, "delta", value)
        else:
            merged.append(event)
    return merged
