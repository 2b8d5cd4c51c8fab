"""Results behind the calls they belong to, in the order of the calls.

Harmony has no ids: the model reads the first result as that of the first call. Clients
name calls by ids and send the results as they come, so they are sorted here:

    pairing = Pairing("tool_call_id")
    pairing.say([question])
    pairing.say([call_a, call_b], [("A", "messages[1]"), ("B", "messages[1]")])
    pairing.result("of B", id="B", where="messages[2]")
    pairing.result("of A", id="A", where="messages[3]")
    pairing.messages()         # question, call_a, call_b, "of A", "of B"

Calls that follow each other with no result between them are a round, and its results
stand together behind it, whatever was said before they came. An id may name a call in
every round: its latest is meant.
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
SHOWABLE = re.compile(r"[\w.:|-]{1,80}")  # ids that an error may repeat


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
    """Calls that were made together; `place` is where their results will stand."""

    place: int = 0
    calls: list[_Call] = field(default_factory=list)
    by_id: dict[str | None, deque[_Call]] = field(default_factory=dict)


class Pairing:
    """A conversation being read; `id_field` is what its API calls the id of a call."""

    def __init__(self, id_field: str) -> None:
        self._id_field = id_field
        self._said: list[Message] = []  # all but the results
        self._rounds: list[_Round] = []
        self._latest: dict[str, _Round] = {}  # that has a call of this id
        self._open = False  # the last round may get more calls

    @property
    def has_messages(self) -> bool:
        """Whether anything has been said."""
        return bool(self._said)

    def add_messages(
        self, messages: Iterable[Message], calls: Iterable[tuple[str | None, str]] = ()
    ) -> None:
        """Take messages that are no results, with the id and place of each call."""
        named = iter(calls)
        for message in messages:
            self._said.append(message)
            if message.is_call:
                id, where = next(named)
                self._begin_call(_Call(message, id or None, where))
            elif message.role != "assistant":
                self._open = False

    def add_result(
        self, text: str, *, id: str | None, where: str, name: str | None = None
    ) -> None:
        """Take the result of a call. Raises PromptError if it is of none.

        Without an id it is of the oldest call of the last round that waits, of tool
        `name` if that is given; of a tool that was not called there it stands alone.
        """
        call = self._named(id, name, where) if id else self._oldest(name)
        if call is not None:
            if self._open:
                self._rounds[-1].place = len(self._said)
            call.answer(text)
        elif id is None and name:
            self._said.append(tool_result(name, text))
        else:
            raise PromptError(
                f"{where} is the result of no call: give the `{self._id_field}` of an "
                "earlier call",
                where=where,
            )
        self._open = False

    def messages(self, *, to_answer: bool = True) -> list[Message]:
        """Return the conversation. A call that nobody answered gets a result saying so.

        `to_answer` says that the model goes on from here. Then the calls that stand
        last must have their results: raises PromptError that names those without.
        """
        if self._rounds and to_answer:
            self._check_last(self._rounds[-1])
        out: list[Message] = []
        begin = 0
        for one in self._rounds:
            out += self._said[begin : one.place]
            begin = one.place
            if one is not self._rounds[-1] or not self._waits(one):
                out += map(_result, one.calls)
            else:
                out += [call.result for call in one.calls if call.result is not None]
        return out + self._said[begin:]

    def _begin_call(self, call: _Call) -> None:
        if not self._open:
            self._rounds.append(_Round())
        last = self._rounds[-1]
        last.place, self._open = len(self._said), True
        last.calls.append(call)
        last.by_id.setdefault(call.id, deque()).append(call)
        if call.id is not None:
            self._latest[call.id] = last

    def _named(self, id: str, name: str | None, where: str) -> _Call | None:
        """The call of an id, or one that waits and was given none."""
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
        """The first call of the last round that waits, of tool `name` if given."""
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
        """Whether nobody has said anything since the calls of the last round."""
        return self._open or last.place == len(self._said)

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
    """An id as errors repeat it: only one that looks like an id."""
    return f" `{id}`" if id and SHOWABLE.fullmatch(id) else ""
