"""Pair tool results with their calls, in the order of the calls.

Harmony has no call ids: the model takes the first result for that of the first call.
Clients give calls ids and send results in any order, so they are sorted here:

    pairing = Pairing("tool_call_id")
    pairing.add_messages([question])
    ids = [("A", "messages[1]"), ("B", "messages[1]")]
    pairing.add_messages([call_a, call_b], ids)
    pairing.add_result("of B", id="B", where="messages[2]")
    pairing.add_result("of A", id="A", where="messages[3]")
    pairing.messages()         # question, call_a, call_b, "of A", "of B"

Consecutive calls without a result between them form a round. Its results are placed
directly behind it, whatever messages came in between. An id may be reused in a later
round; a result belongs to the latest call with its id.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import (
    FUNCTION_PREFIX,
    Message,
    tool_result,
    wire_name,
)

UNANSWERED = "Error: this call has no result; it may have been interrupted"
SHOWABLE = re.compile(r"[\w.:|-]{1,80}")  # ids that are safe to show in an error


@dataclass(eq=False)
class _Call:
    message: Message
    id: str | None
    where: str
    result: Message | None = None

    @property
    def recipient(self) -> str:
        return wire_name(self.message.recipient or "")

    def answer(self, text: str) -> None:
        self.result = Message(
            "tool",
            text,
            channel=self.message.channel,
            recipient="assistant",
            name=self.message.recipient,
        )


@dataclass(eq=False)
class _Round:
    """Calls made together; `place` is the index at which their results are inserted."""

    place: int = 0
    calls: list[_Call] = field(default_factory=list)
    by_id: dict[str | None, deque[_Call]] = field(default_factory=dict)


class Pairing:
    """Collects a conversation; `id_field` is the name of the call id in its API."""

    def __init__(self, id_field: str) -> None:
        self._id_field = id_field
        self._messages: list[Message] = []  # all but the results
        self._rounds: list[_Round] = []
        self._latest: dict[str, _Round] = {}  # the latest round with a call of that id
        self._open = False  # whether the last round may get more calls

    @property
    def has_messages(self) -> bool:
        """Whether the conversation has any message but results."""
        return bool(self._messages)

    def add_messages(
        self, messages: Iterable[Message], calls: Iterable[tuple[str | None, str]] = ()
    ) -> None:
        """Add messages other than results, with the id and path of each call."""
        identified = iter(calls)
        for message in messages:
            self._messages.append(message)
            if message.is_call:
                id, where = next(identified)
                self._begin_call(_Call(message, id or None, where))
            elif message.role != "assistant":
                self._open = False

    def add_result(
        self, text: str, *, id: str | None, where: str, name: str | None = None
    ) -> None:
        """Add the result of a call. Raises PromptError if there is no such call.

        Without an id it answers the oldest open call of the last round, of tool `name`
        if given; a result of a tool that was not called there is kept on its own.
        """
        call = self._named(id, name, where) if id else self._oldest(name)
        if call is not None:
            if self._open:
                self._rounds[-1].place = len(self._messages)
            call.answer(text)
        elif id is None and name:
            self._messages.append(tool_result(name, text))
        else:
            raise PromptError(
                f"{where} is the result of no call: give the `{self._id_field}` of an "
                "earlier call",
                where=where,
            )
        self._open = False

    def messages(self, *, to_answer: bool = True) -> list[Message]:
        """Return the conversation. A call without a result gets one that says so.

        `to_answer` means that the model continues from here: then the last calls must
        have their results, or a PromptError names those without.
        """
        if self._rounds and to_answer:
            self._check_last(self._rounds[-1])
        out: list[Message] = []
        begin = 0
        for one in self._rounds:
            out += self._messages[begin : one.place]
            begin = one.place
            if one is not self._rounds[-1] or not self._waits(one):
                out += map(_result, one.calls)
            else:
                out += [call.result for call in one.calls if call.result is not None]
        return out + self._messages[begin:]

    def _begin_call(self, call: _Call) -> None:
        if not self._open:
            self._rounds.append(_Round())
        last = self._rounds[-1]
        last.place, self._open = len(self._messages), True
        last.calls.append(call)
        last.by_id.setdefault(call.id, deque()).append(call)
        if call.id is not None:
            self._latest[call.id] = last

    def _named(self, id: str, name: str | None, where: str) -> _Call | None:
        """Find the call with an id, or else an open call without one."""
        if id in self._latest:
            waiting = self._latest[id].by_id[id]
            if waiting:
                return waiting.popleft()
            raise PromptError(
                f"{where} is a second result of call{_shown(id)}: send one for each",
                where=where,
            )
        if self._rounds and self._rounds[-1].by_id.get(None):
            return self._oldest(name, only_without_id=True)
        raise PromptError(
            f"{where} is the result of no call: no call before it has the "
            f"`{self._id_field}`{_shown(id)}",
            where=where,
        )

    def _oldest(
        self, name: str | None, *, only_without_id: bool = False
    ) -> _Call | None:
        """Find the oldest open call of the last round, of tool `name` if given."""
        if not self._rounds:
            return None
        last = self._rounds[-1]
        wanted = FUNCTION_PREFIX + wire_name(name) if name else None
        for call in last.by_id.get(None, ()) if only_without_id else last.calls:
            if call.result is None and wanted in (None, call.recipient):
                last.by_id[call.id].remove(call)
                return call
        return None

    def _waits(self, last: _Round) -> bool:
        """Whether no message has followed the calls of the last round."""
        return self._open or last.place == len(self._messages)

    def _check_last(self, last: _Round) -> None:
        missing = [call for call in last.calls if call.result is None]
        if not missing or not self._waits(last):
            return
        named = ", ".join(f"{call.where}{_shown(call.id)}" for call in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise PromptError(
            f"there is no result of {named}{more}: send one for each call",
            where=missing[0].where,
        )


def _result(call: _Call) -> Message:
    if call.result is None:
        call.answer(UNANSWERED)
    assert call.result is not None
    return call.result


def _shown(id: str | None) -> str:
    """Return an id for an error message; empty if it does not look like one."""
    return f" `{id}`" if id and SHOWABLE.fullmatch(id) else ""
