"""Conversations in memory only, for `--private`: the same methods as `Sessions`."""

import json
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from mlx_gptoss.chat.sessions import ChatSummary, SearchHit, as_markdown
from mlx_gptoss.chat.sessions.answer_journal import AnswerJournal
from mlx_gptoss.chat.sessions.store import Savable
from mlx_gptoss.errors import SessionError

SNIPPET_CHARACTERS = 80


class ChatStore(Protocol):
    """Where conversations are kept; `Sessions` is one."""

    def save(self, chat: Savable) -> None: ...
    def list(self, limit: int | None = None) -> Sequence[ChatSummary]: ...
    def search(self, text: str) -> Sequence[SearchHit]: ...
    def load(self, id: str) -> dict[str, Any]: ...
    def notes(self) -> dict[str, dict[str, Any]]: ...
    def markdown(self, id: str) -> str: ...
    def delete_all(self, ids: Sequence[str] | None = None) -> int: ...
    def journal(self, id: str) -> AnswerJournal | None: ...


class MemoryStore:
    """A ChatStore that forgets everything when the server ends. Any thread."""

    def __init__(self) -> None:
        self._chats: dict[str, tuple[ChatSummary, str]] = {}
        self._lock = threading.Lock()

    def save(self, chat: Savable) -> None:
        """Keep the state of a chat; an empty one is not kept."""
        data = chat.to_json()
        summary = ChatSummary(
            chat.id, chat.title, data["created"], data["updated"], len(chat.questions)
        )
        with self._lock:
            self._chats.pop(chat.id, None)
            if data["messages"]:
                self._chats[chat.id] = (summary, json.dumps(data))

    def list(self, limit: int | None = None) -> tuple[ChatSummary, ...]:
        """Return the chats, the most recently updated first."""
        with self._lock:
            found = [summary for summary, _ in self._chats.values()]
        found.sort(key=lambda one: one.updated, reverse=True)
        return tuple(found[:limit])

    def search(self, text: str) -> tuple[SearchHit, ...]:
        """Return the chats with a message or a title that contains all words."""
        words = text.lower().split()
        found = []
        for summary in self.list() if words else ():
            for said in (*_shown_texts(self.load(summary.id)), summary.title):
                if all(word in said.lower() for word in words):
                    found.append(SearchHit(summary, said[:SNIPPET_CHARACTERS]))
                    break
        return tuple(found)

    def load(self, id: str) -> dict[str, Any]:
        """Return a chat for `Chat.from_json`. Raises SessionError."""
        with self._lock:
            if id not in self._chats:
                raise SessionError(f"no chat has the id `{id}`")
            return json.loads(self._chats[id][1])

    def notes(self) -> dict[str, dict[str, Any]]:
        """Return the notes of the chats that have any, by id."""
        with self._lock:
            ids = [*self._chats]
        found = {id: self.load(id).get("notes") for id in ids}
        return {id: notes for id, notes in found.items() if notes}

    def markdown(self, id: str) -> str:
        """Return a chat as a Markdown document."""
        return as_markdown(self.load(id))

    def delete_all(self, ids: Sequence[str] | None = None) -> int:
        """Forget these chats, or all; return how many there were."""
        with self._lock:
            chosen = [*self._chats] if ids is None else list(ids)
            return sum(self._chats.pop(id, None) is not None for id in chosen)

    def journal(self, id: str) -> None:
        """Return none: nothing of an answer may be written."""


def _shown_texts(data: dict[str, Any]) -> Sequence[str]:
    """Return the questions and answers of a saved chat."""
    return [
        message["content"]
        for message in data["messages"]
        if isinstance(message["content"], str)
        and message["role"] in ("user", "assistant")
        and message.get("channel") != "analysis"
        and not message.get("recipient")
    ]
