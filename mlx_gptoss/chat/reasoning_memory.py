"""Remember tool calls as they were written, and the reasoning before them.

    memory.remember(["call_7f3a"], messages)     # one generation that ended in calls
    memory.restore(returned, ["call_7f3a"])      # in a later request
    from_chat_messages(request["messages"], restore=memory.restore)

Within a turn of tool calls gpt-oss needs its reasoning, but most clients return only
the calls and their results. Reasoning is found by the id of a call, and only if the
call comes back unchanged: an id that a client used twice restores nothing. Arguments
that a client has parsed and written anew are those of the model again. The prompt is
then that of the unbroken conversation, token for token, on every API.

Limited by characters; the least recently used go first. Any thread may use it. Knows
nothing of requests, nor of the end of a turn: rendering drops the reasoning of finished
turns.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from mlx_gptoss.harmony.messages import Message

DEFAULT_CHARACTERS = 4_000_000  # several thousand turns

Messages = tuple[Message, ...]


class ReasoningMemory:
    """The messages of generations that ended in calls, by the ids of the calls.

    `limit` is in characters.
    """

    def __init__(self, limit: int = DEFAULT_CHARACTERS) -> None:
        self.limit = limit  # characters
        self._lock = threading.Lock()
        # Calls of one generation share a tuple.
        self._kept: OrderedDict[str, Messages] = OrderedDict()
        self._size = 0

    def remember(self, call_ids: Iterable[str], messages: Iterable[Message]) -> None:
        """Keep the messages of one generation; ignore one without calls.

        `call_ids` are the ids of its calls, in order.
        """
        ids, written = tuple(call_ids), tuple(messages)
        size = _size(written)
        if not ids or size > self.limit:
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
        """Return the messages of a client with their calls as the model wrote them.

        The reasoning before the calls is added if it is missing.

        `returned` are the messages of one assistant turn as the client sent them, and
        `call_ids` the ids of its calls, in order. Messages with unknown calls are
        returned unchanged.
        """
        given = list(returned)
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
        own = iter([message for message in written if message.is_call])
        given = [next(own) if message.is_call else message for message in given]
        if any(map(_is_reasoning, given)):
            return given
        if _visible_text(written) == _visible_text(given):
            return list(written)
        return [*filter(_is_reasoning, written), *given]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._size = 0

    @property
    def characters(self) -> int:
        """The characters kept; messages with several calls count once for each."""
        return self._size

    def _forget(self, id: str) -> None:
        written = self._kept.pop(id, None)
        if written is not None:
            self._size -= _size(written)


def _is_reasoning(message: Message) -> bool:
    return message.channel == "analysis" and not message.is_call


def _size(messages: Messages) -> int:
    return sum(len(message.text) for message in messages)


def _calls(messages: Iterable[Message]) -> list[tuple[str, Any]]:
    """Return the recipients and parsed arguments of the calls."""
    return [
        (message.recipient or "", _arguments(message.text))
        for message in messages
        if message.is_call
    ]


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # code, or invalid JSON
        return text


def _visible_text(messages: Iterable[Message]) -> str:
    """Return the text for the user beside the calls."""
    shown = [m for m in messages if not m.is_call and not _is_reasoning(m)]
    return "".join(message.text for message in shown).strip()
