"""The chats that are kept: save, list, search, load, delete.

Knows chats as the data of `Chat.to_json`; nothing of models and of terminals.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mlx_gptoss.chat.sessions import index
from mlx_gptoss.chat.sessions.database import ChatDatabase, free_pages
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
    from mlx_gptoss.chat import Chat

log = logging.getLogger(__name__)
T = TypeVar("T")

FILE_NAME = "chats.sqlite3"
INDEX_REBUILT = (
    "the search index of the chats that are kept could not be used and has been built "
    "anew: nothing is lost"
)


class Sessions:
    """All chats of a user. Any thread and several processes may use one file.

    Everything raises SessionError for a file that cannot be used.
    """

    def __init__(self, database: ChatDatabase, say: Callable[[str], None]) -> None:
        self._database = database
        self._revisions: dict[str, int] = {}  # as this object last saw them
        self.say = say

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        *,
        full_text: bool | None = None,
        say: Callable[[str], None] = log.warning,
    ) -> Self:
        """Open the user's chats, or those in a file; it is made if it is not there.

        `say` is told, in one line, when a broken index was mended.
        """
        return cls(ChatDatabase(path or default_path(), full_text=full_text), say)

    @property
    def path(self) -> Path:
        return self._database.path

    def save(self, chat: "Chat") -> None:
        """Write what is new in a chat, in one transaction; an empty one is not kept.

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
                if not messages:
                    self._remove(db, [chat.id])
                else:
                    db.execute(
                        "INSERT INTO chats VALUES (?, ?, ?, ?, ?, ?, ?) "
                        "ON CONFLICT (id) DO UPDATE SET title = excluded.title, "
                        "updated = excluded.updated, turns = excluded.turns, "
                        "revision = excluded.revision, data = excluded.data",
                        [*row, revision, json.dumps(data)],
                    )
                    self._write(db, chat.id, messages, texts)
            return revision

        revision = self._with_repair(write)
        if messages:
            self._revisions[chat.id] = revision
        else:
            self._revisions.pop(chat.id, None)

    def list(self, limit: int | None = None) -> tuple[ChatSummary, ...]:
        """Return the chats, the latest first."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT id, title, created, updated, turns FROM chats "
                "ORDER BY updated DESC, rowid DESC LIMIT ?",
                [-1 if limit is None else limit],
            ).fetchall()
        return tuple(ChatSummary(**row) for row in rows)

    def search(self, text: str) -> tuple[SearchHit, ...]:
        """Return the chats with a message, or a title, that holds every word of `text`.

        Parts of words count, capitals do not; the latest chats come first.
        """
        words = text.lower().split()
        if not words:
            return ()
        if self._database.searches_index and can_be_indexed(words):
            try:
                return self._with_repair(lambda: self._search(words, indexed=True))
            except SessionError as error:
                found = self._search(words, indexed=False)
                self.say(f"the search index cannot be used, so all was read: {error}")
                return found
        return self._search(words, indexed=False)

    def find(self, id: str) -> str:
        """Return the whole id of the one chat whose id begins so."""
        with self._database.reading() as db:
            return self._whole_id(db, id)

    def load(self, id: str) -> dict[str, Any]:
        """Return a chat for `Chat.from_json`; the beginning of its id is enough."""
        with self._database.reading() as db:
            id = self._whole_id(db, id)
            chat = db.execute("SELECT * FROM chats WHERE id = ?", [id]).fetchone()
            rows = db.execute(
                "SELECT data FROM messages WHERE chat = ? ORDER BY place", [id]
            ).fetchall()
        self._revisions[id] = chat["revision"]
        messages = [json.loads(row["data"]) for row in rows]
        return json.loads(chat["data"]) | {"messages": messages}

    def markdown(self, id: str) -> str:
        """Return a chat as a Markdown document."""
        from mlx_gptoss.chat.sessions.markdown import as_markdown  # noqa: PLC0415 - MLX

        return as_markdown(self.load(id))

    def delete(self, id: str) -> str:
        """Overwrite a chat and its words in the index; return its whole id."""
        whole = self.find(id)
        self.delete_all([whole])
        return whole

    def delete_all(self, ids: Sequence[str] | None = None) -> int:
        """Overwrite these chats, or every one: all of them or, if it fails, none.

        Returns how many there were.
        """

        def remove() -> int:
            with self._database.writing() as db:
                gone = self._remove(db, ids)
                free_pages(db)
            return gone

        gone = self._with_repair(remove)
        for id in self._revisions.copy() if ids is None else ids:
            self._revisions.pop(id, None)
        return gone

    def questions(self, ids: Sequence[str] | None = None) -> "list[str]":
        """Return what the user said in these chats, or in every one."""
        with self._database.reading() as db:
            chosen = _ids_condition(db, ids)
            rows = db.execute(f"SELECT data FROM messages WHERE chat {chosen}")
            said = (json.loads(row["data"]) for row in rows)
            return [one["content"] for one in said if one["role"] == "user"]

    def mend(self) -> None:
        """Build the search index anew, whatever its state; chats stay as they are."""
        self._database.mend(thorough=True)

    def _with_repair(self, work: Callable[[], T]) -> T:
        """Do `work`; if the index is broken, mend it and do the work again."""
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

    def _write(
        self,
        db: sqlite3.Connection,
        id: str,
        messages: Sequence[str],
        texts: Sequence[str],
    ) -> None:
        """Replace the stored messages from the first on that is another."""
        rows = db.execute(
            "SELECT data FROM messages WHERE chat = ? ORDER BY place", [id]
        ).fetchall()
        pairs = zip(rows, messages, strict=False)
        same = next(
            (n for n, (row, new) in enumerate(pairs) if row["data"] != new),
            min(len(rows), len(messages)),
        )
        if same < len(rows):
            self._delete_messages(db, "chat = ? AND place >= ?", [id, same])
        db.executemany(
            "INSERT INTO messages (chat, place, text, data) VALUES (?, ?, ?, ?)",
            [(id, n, texts[n], messages[n]) for n in range(same, len(messages))],
        )

    def _remove(self, db: sqlite3.Connection, ids: Sequence[str] | None) -> int:
        chosen = _ids_condition(db, ids)
        self._delete_messages(db, f"chat {chosen}", [])
        return db.execute(f"DELETE FROM chats WHERE id {chosen}").rowcount

    def _delete_messages(
        self, db: sqlite3.Connection, where: str, values: Sequence[Any]
    ) -> None:
        indexed = self._database.searches_index
        index.delete(db, where, values, indexed=indexed)

    def _whole_id(self, db: sqlite3.Connection, id: str) -> str:
        rows = db.execute(
            "SELECT id FROM chats WHERE substr(id, 1, ?) = ?", [len(id), id]
        ).fetchall()
        ids = [row["id"] for row in rows]
        if id in ids:
            return id
        if len(ids) != 1 or not id:
            problem = f"{len(ids)} chats have an id" if ids else "no chat has an id"
            raise SessionError(
                f"{problem} that begins with `{id}`: `mlx-gptoss sessions` lists them"
            )
        return ids[0]


def default_path() -> Path:
    """Return where the user's chats are kept, there or not yet."""
    return data_folder() / FILE_NAME


def _ids_condition(db: sqlite3.Connection, ids: Sequence[str] | None) -> str:
    """Return what SQL says of an id that is one of these; any if there are none."""
    if ids is None:
        return "IS NOT NULL"
    db.execute("CREATE TEMP TABLE chosen (id TEXT PRIMARY KEY)")
    db.executemany("INSERT OR IGNORE INTO chosen VALUES (?)", [(id,) for id in ids])
    return "IN (SELECT id FROM temp.chosen)"


def _searchable_text(message: Any) -> str:
    """The text of what was said to and by the user; "" for all else."""
    said = message.role == "user" or (
        message.role == "assistant"
        and message.channel != "analysis"
        and not message.is_call
    )
    return _valid_utf8(message.text) if said else ""


def _valid_utf8(text: str) -> str:
    """SQLite takes UTF-8, which has no half of a pair."""
    return text.encode("utf-8", "replace").decode("utf-8")
