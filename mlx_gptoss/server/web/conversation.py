"""One open conversation: what is saved of it, and the answer in progress.

Its state for a tab is one JSON value; while an answer is in progress, events say what
is added to the last turn. For one event loop.
"""

import datetime
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_gptoss.chat import Chat, saved
from mlx_gptoss.chat.history import default_title
from mlx_gptoss.harmony.events import Event
from mlx_gptoss.harmony.messages import IDENTITY, Message
from mlx_gptoss.server.web.answering import AnswerInProgress
from mlx_gptoss.server.web.approvals import Approvals
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.event_log import EventLog
from mlx_gptoss.server.web.figures import add_figures
from mlx_gptoss.server.web.tools import OpenedTools
from mlx_gptoss.server.web.turn_items import ASKING, RUNNING
from mlx_gptoss.server.web.view import show_question, show_turns

Data = dict[str, Any]


class OpenConversation:
    """A conversation that tabs look at.

    `data` is the saved chat, `histories` those of its family for arrows between
    versions. `in_loop` runs a function in the event loop, from any thread.
    """

    def __init__(
        self, data: Data, in_loop: Callable[..., object], *, is_saved: bool
    ) -> None:
        self.id = str(data["id"])
        self.data = data
        self.is_saved = is_saved
        self.deleted = False
        self.changed = False  # settings that were changed during an answer
        self.log = EventLog()
        self.answer: AnswerInProgress | None = None
        self.approvals = Approvals(lambda id, waits: in_loop(self._mark, id, waits))
        self.chat: Chat | None = None  # kept for the state of its tools
        self.tools: OpenedTools | None = None
        self.used: int | None = None  # tokens
        self.problem: str | None = None
        self.unsent: str | None = None  # a question that was not answered
        self.turns: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any] | None] = []
        self.show(data)

    @property
    def title(self) -> str:
        """The title that was set, else the first line of the first question."""
        if self.data["title"]:
            return self.data["title"]
        first = self.turns[0]["source"] if self.turns else ""
        if not first and self.answer is not None:
            first = self.answer.question
        return default_title([Message("user", first)])

    @property
    def messages(self) -> Sequence[Message]:
        """The saved history."""
        return saved.from_json(self.data).messages

    def show(self, data: Data) -> None:
        """Show this state of the conversation from now on."""
        chat = saved.from_json(data)
        self.data = data
        self.turns = show_turns(chat.messages, chat.waiting)
        add_figures(self.turns, data)

    def begin(self, answer: AnswerInProgress, data: Data) -> None:
        """An answer begins, behind the history of `data`."""
        self.show(data)
        self.answer, self.problem, self.unsent = answer, None, None
        self.log.restart()

    def take(self, event: Event) -> None:
        """Add an event of the answer in progress."""
        if self.answer is None:
            return
        changed = self.answer.parts.take(event)
        if changed is not None:
            self._send(*changed)

    def end(self, *, problem: str | None) -> None:
        """The answer in progress has ended; `show` said how."""
        answer, self.answer = self.answer, None
        self.problem = problem
        if answer is not None and not answer.sent:
            self.unsent = answer.question
        self.log.restart()

    def state(self, settings: ChatSettings) -> dict[str, Any]:
        """Return the whole conversation for a tab."""
        turns = [dict(turn) for turn in self.turns]
        if self.answer is not None:
            if not self.answer.shown:
                turns.append(show_question(self.answer.question))
                turns[-1]["items"] = self.answer.parts.items
        elif self.unsent is not None:
            turns.append(show_question(self.unsent) | {"unsent": True})
        for place, turn in enumerate(turns):
            turn["items"] = [dict(item) for item in turn["items"]]
            if place < len(self.versions):
                turn["versions"] = self.versions[place]
        waiting = self.approvals.waiting
        return {
            "id": self.id,
            "title": self.title,
            "updated": self.data["updated"],
            "settings": settings.model_dump(),
            "turns": turns,
            "running": self.answer is not None,
            "stopping": self.answer is not None and self.answer.stopping,
            "asking": None if waiting is None else waiting.call.id,
            "problem": self.problem,
            "saved": self.is_saved,
        }

    def close_tools(self) -> None:
        """Stop the tools; the next answer starts them again."""
        tools, self.tools, self.chat = self.tools, None, None
        if tools is not None:
            tools.close()

    def _mark(self, call_id: str, waits: bool) -> None:
        """Show that a call waits for a decision, or no longer does."""
        if self.answer is None:
            return
        place = self.answer.parts.set_state(call_id, ASKING if waits else RUNNING)
        if place is not None:
            self._send(place, None)

    def _send(self, place: int, text: str | None) -> None:
        assert self.answer is not None
        if text is not None:
            self.log.add("delta", {"at": place, "text": text})
            return
        items = self.answer.parts.items
        if place and items[place - 1]["kind"] == "reasoning":  # with its seconds
            self.log.add("item", {"at": place - 1, "item": dict(items[place - 1])})
        self.log.add("item", {"at": place, "item": dict(items[place])})


def new_data(settings: ChatSettings, notes: Mapping[str, Any] | None = None) -> Data:
    """Return a conversation without messages, as `Chat.to_json` does."""
    now = datetime.datetime.now(datetime.UTC)
    chat = saved.SavedChat(
        id=uuid.uuid4().hex,
        title=None,
        created=now,
        updated=now,
        effort=settings.effort,
        system=settings.system or None,
        identity=IDENTITY,
        date=datetime.date.today().isoformat(),
        forgotten=0,
        messages=(),
        waiting=(),
        notes={**settings.notes, **(notes or {})},
    )
    return saved.to_json(chat)


def changed_data(
    data: Data, *, title: str | None, settings: ChatSettings | None
) -> Data:
    """Return a conversation with another title or other settings."""
    data = dict(data)
    if title is not None:
        data["title"] = title or None
    if settings is not None:
        data |= {"effort": settings.effort, "system": settings.system or None}
        data["notes"] = {**data.get("notes", {}), **settings.notes}
        data.setdefault("adapter", None)
        data["version"] = saved.VERSION
    return data
