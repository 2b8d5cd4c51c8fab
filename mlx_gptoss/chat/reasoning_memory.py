"""What the model thought before its calls, for clients that do not send it back.

    memory.remember(["call_7f3a"], messages)     # one generation that ended in calls
    memory.restore(returned, ["call_7f3a"])      # in a later request
    from_chat_messages(request["messages"], restore=memory.restore)

gpt-oss needs its reasoning within a turn of tool calls, and most clients return the
calls and their results alone. By the id of a call it is found again, and only where the
call itself comes back as it was made: an id that a client used twice restores nothing.
Then the prompt is that of the unbroken conversation, token for token.

Bounded by characters, the oldest go first; any thread may use it. Knows nothing of
requests, nor of when a turn is over: rendering drops the reasoning of finished turns.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from mlx_gptoss.harmony.messages import Message

DEFAULT_CHARACTERS = 4_000_000  # some thousand turns

Messages = tuple[Message, ...]


class ReasoningMemory:
    """Messages of the model by the ids of the calls they end in."""

    def __init__(self, limit: int = DEFAULT_CHARACTERS) -> None:
        self.limit = limit  # characters
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Messages] = OrderedDict()  # of the same tuple
        self._size = 0

    def remember(self, call_ids: Iterable[str], messages: Iterable[Message]) -> None:
        """Keep what the model wrote in one generation; nothing without a call in it.

        `call_ids` are those of its calls in their order.
        """
        ids, written = tuple(call_ids), tuple(messages)
        size = _size(written)
        if not ids or not any(map(_is_thought, written)) or size > self.limit:
            return
        with self._lock:
            for id in ids:
                self._forget(id)
                self._kept[id] = written
                self._size += size
            while self._size > self.limit:
                self._forget(next(iter(self._kept)))

    def restore(
        self, returned: Sequence[Message], call_ids: Sequence[str]
    ) -> list[Message]:
        """Put reasoning before calls that came back without it.

        `returned` are the messages of one assistant turn as a client sent them, and
        `call_ids` the ids of its calls in their order. What was sent with reasoning,
        or is not known, comes back as it is.
        """
        given = list(returned)
        if any(map(_is_thought, given)):
            return given
        with self._lock:
            known = [self._kept.get(id) for id in call_ids]
            for id in call_ids:
                if id in self._kept:
                    self._kept.move_to_end(id)
        written = known[0] if known else None
        if written is None or any(one is not written for one in known):
            return given
        if _calls(written) != _calls(given):
            return given
        if _said(written) == _said(given):
            return list(written)
        return [*filter(_is_thought, written), *given]

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._size = 0

    @property
    def characters(self) -> int:
        """How much is kept; what several calls share counts for each."""
        return self._size

    def _forget(self, id: str) -> None:
        written = self._kept.pop(id, None)
        if written is not None:
            self._size -= _size(written)


def _is_thought(message: Message) -> bool:
    return message.channel == "analysis" and not message.is_call


def _size(messages: Messages) -> int:
    return sum(len(message.text) for message in messages)


def _calls(messages: Iterable[Message]) -> list[tuple[str, Any]]:
    """The calls by name and arguments, however the JSON is written."""
    return [
        (message.recipient or "", _arguments(message.text))
        for message in messages
        if message.is_call
    ]


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # code, or what a model broke
        return text


def _said(messages: Iterable[Message]) -> str:
    """What was told to the user beside the calls."""
    shown = [m for m in messages if not m.is_call and not _is_thought(m)]
    return "".join(message.text for message in shown).strip()
