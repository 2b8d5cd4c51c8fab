"""Save, list, search, load and delete the chats of a user.

Knows chats as the JSON of `Chat.to_json`; nothing of models or terminals.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from mlx_gptoss.chat.sessions import rows
from mlx_gptoss.chat.sessions.answer_journal import AnswerJournal, Journals
from mlx_gptoss.chat.sessions.database import ChatDatabase, free_pages
from mlx_gptoss.chat.sessions.recovery import recover_answers
from mlx_gptoss.chat.sessions.search import (
    SHORT_ID_CHARACTERS,
    ChatSummary,
    SearchHit,
    can_be_indexed,
    search,
)
from mlx_gptoss.errors import SessionError
from mlx_gptoss.files import data_folder

if TYPE_CHECKING:
    from mlx_gptoss.harmony.messages import Message

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE_NAME = "chats.sqlite3"
INDEX_REBUILT = (
    "the search index of the saved chats could not be used and was rebuilt: no chat "
    "is lost"
)


class Savable(Protocol):
    """A chat as far as it is saved; a `Chat` is one."""

    id: str

    @property
    def title(self) -> str: ...
    @property
    def messages(self) -> "Sequence[Message]": ...
    @property
    def questions(self) -> Sequence[str]: ...
    def to_json(self) -> dict[str, Any]: ...


class Sessions:
    """The saved chats of a user, in one SQLite file.

    Any thread, and several processes, may use the file at once. Every method raises
    SessionError if the file cannot be used, and those that take an `id`, the start of
    which suffices, for one that no chat or several chats have. Use `open` to make one.
    """

    def __init__(self, database: ChatDatabase, say: Callable[[str], None]) -> None:
        self._database = database
        self._revisions: dict[str, int] = {}  # as this object last saw them
        self._journals = Journals(database.path)
        self.say = say

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        *,
        full_text: bool | None = None,
        say: Callable[[str], None] = log.warning,
    ) -> Self:
        """Open the user's file of chats, or the one at `path`; create it if needed.

        `full_text=False` does without SQLite's full-text index. `say` is called with
        one line when a broken index was rebuilt.

        What programs that were killed left of their answers is added to the chats.
        """
        made = cls(ChatDatabase(path or default_path(), full_text=full_text), say)
        recover_answers(made, made._journals)
        return made

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def save(self, chat: "Savable") -> None:
        """Write the changes of a chat in one transaction; an empty chat is not kept.

        Raises SessionError, and writes nothing, if another process has changed or
        deleted the chat since it was loaded or saved here.
        """
        data = chat.to_json()
        messages = [json.dumps(message) for message in data.pop("messages")]
        texts = [_searchable_text(message) for message in chat.messages]
        row = [
            chat.id,
            _valid_utf8(chat.title),
            data["created"],
            data["updated"],
            len(chat.questions),
        ]

        def write() -> int:
            with self._database.writing() as db:
                revision = self._next_revision(db, chat.id)
                indexed = self._database.searches_index
                if not messages:
                    rows.delete_chats(db, [chat.id], indexed=indexed)
                else:
                    rows.write_chat(db, [*row, revision, json.dumps(data)])
                    rows.write_messages(db, chat.id, messages, texts, indexed=indexed)
            return revision

        revision = self._with_repair(write)
        if messages:
            self._revisions[chat.id] = revision
        else:
            self._revisions.pop(chat.id, None)

    def list(self, limit: int | None = None) -> tuple[ChatSummary, ...]:
        """Return the chats, or the first `limit`, the most recently updated first."""
        with self._database.reading() as db:
            found = db.execute(
                "SELECT id, title, created, updated, turns FROM chats "
                "ORDER BY updated DESC, rowid DESC LIMIT ?",
                [-1 if limit is None else limit],
            ).fetchall()
        return tuple(ChatSummary(**row) for row in found)

    def search(self, text: str) -> tuple[SearchHit, ...]:
        """Return the chats with a message or a title that contains all words of `text`.

        Matches parts of words, ignoring case; the most recently updated come first.
        """
        words = text.lower().split()
        if not words:
            return ()
        if self._database.searches_index and can_be_indexed(words):
            try:
                return self._with_repair(lambda: self._search(words, indexed=True))
            except SessionError as error:
                found = self._search(words, indexed=False)
                self.say(f"searched without the index, which cannot be used: {error}")
                return found
        return self._search(words, indexed=False)

    def notes(self) -> dict[str, dict[str, Any]]:
        """Return the notes of the chats that have any, by id (see `Chat`)."""
        with self._database.reading() as db:
            found = db.execute(
                "SELECT id, json_extract(data, '$.notes') AS notes FROM chats "
                "WHERE notes IS NOT NULL"
            ).fetchall()
        return {row["id"]: json.loads(row["notes"]) for row in found}

    def find(self, id: str) -> str:
        """Return the full id of the one chat whose id begins with `id`."""
        with self._database.reading() as db:
            return rows.complete_id(db, id)

    def load(self, id: str) -> dict[str, Any]:
        """Return a chat for `Chat.from_json`; the start of its id suffices."""
        with self._database.reading() as db:
            id = rows.complete_id(db, id)
            chat = db.execute("SELECT * FROM chats WHERE id = ?", [id]).fetchone()
            stored = db.execute(
                "SELECT data FROM messages WHERE chat = ? ORDER BY place", [id]
            ).fetchall()
        self._revisions[id] = chat["revision"]
        messages = [json.loads(row["data"]) for row in stored]
        return json.loads(chat["data"]) | {"messages": messages}

    def markdown(self, id: str) -> str:
        """Return the chat `id` as a Markdown document."""
        from mlx_gptoss.chat.sessions.markdown import as_markdown  # noqa: PLC0415 - MLX

        return as_markdown(self.load(id))

    def delete(self, id: str) -> str:
        """Delete a chat and its words in the index, securely; return its full id."""
        full = self.find(id)
        self.delete_all([full])
        return full

    def delete_all(self, ids: Sequence[str] | None = None) -> int:
        """Delete the chats `ids`, or all, securely, in one transaction.

        Returns how many there were. What is deleted is overwritten in the file.
        """

        def remove() -> int:
            with self._database.writing() as db:
                count = rows.delete_chats(
                    db, ids, indexed=self._database.searches_index
                )
                free_pages(db)
            return count

        count = self._with_repair(remove)
        self._journals.remove(ids)
        for id in self._revisions.copy() if ids is None else ids:
            self._revisions.pop(id, None)
        return count

    def journal(self, id: str) -> AnswerJournal | None:
        """Open the journal of an answer to a chat: what arrives outlives `kill -9`.

        None, with a line in the log, if that cannot be.
        """
        return self._journals.open(id)

    def questions(self, ids: Sequence[str] | None = None) -> "list[str]":
        """Return the user's messages in the chats `ids`, or in all."""
        with self._database.reading() as db:
            condition = rows.ids_condition(db, ids)
            stored = db.execute(f"SELECT data FROM messages WHERE chat {condition}")
            messages = (json.loads(row["data"]) for row in stored)
            return [one["content"] for one in messages if one["role"] == "user"]

    def mend(self) -> None:
        """Rebuild the search index, whatever its state; chats are not changed."""
        self._database.mend(thorough=True)

    def _with_repair(self, work: Callable[[], T]) -> T:
        """Call `work`; if the index is broken, rebuild it and call `work` again."""
        for thorough in (False, True):
            try:
                return work()
            except SessionError as error:
                if not self._database.index_may_be_broken(error, damage=thorough):
                    raise
                if self._database.mend(thorough=thorough):
                    self.say(INDEX_REBUILT)
        return work()

    def _search(self, words: Sequence[str], *, indexed: bool) -> tuple[SearchHit, ...]:
        with self._database.reading() as db:
            if indexed:
                self._database.check_index(db)
            return search(db, words, indexed=indexed)

    def _next_revision(self, db: sqlite3.Connection, id: str) -> int:
        row = db.execute("SELECT revision FROM chats WHERE id = ?", [id]).fetchone()
        known = self._revisions.get(id)
        if known is not None and (row is None or row["revision"] != known):
            happened = "deleted" if row is None else "continued"
            raise SessionError(
                f"chat `{id[:SHORT_ID_CHARACTERS]}` was {happened} by another program, "
                "so it is not saved here: branch it to keep what you have"
            )
        return row["revision"] + 1 if row else 1


def default_path() -> Path:
    """Return the path of the user's chats, whether or not the file exists."""
    return data_folder() / FILE_NAME


def _searchable_text(message: Any) -> str:
    """Return the text of questions and answers; "" for other messages."""
    is_searchable = message.role == "user" or (
        message.role == "assistant"
        and message.channel != "analysis"
        and not message.is_call
    )
    return _valid_utf8(message.text) if is_searchable else ""


def _valid_utf8(text: str) -> str:
    """Replace lone surrogates: SQLite stores UTF-8, which cannot express them."""
    return text.encode("utf-8", "replace").decode("utf-8")
