"""The chats that are kept: save, list, search, load, delete.

Knows chats as the data of `Chat.to_json`; nothing of models and of terminals.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlx_gptoss.chat import Chat
from mlx_gptoss.errors import SessionError
from mlx_gptoss.home import data_home
from mlx_gptoss.sessions.database import Database
from mlx_gptoss.sessions.markdown import as_markdown

FILE = "chats.sqlite3"
SHOWN_ID = 8  # characters of an id: enough to tell chats apart
SNIPPET = 80  # characters around what was found
LEAST_INDEXED = 3  # characters of a word that the index can find


@dataclass(frozen=True)
class Summary:
    """A chat in a list. Times are ISO 8601 with a zone."""

    id: str
    title: str
    created: str
    updated: str
    turns: int

    @property
    def short_id(self) -> str:
        return self.id[:SHOWN_ID]


@dataclass(frozen=True)
class Found:
    """A chat that holds what was searched, and the text around it."""

    chat: Summary
    snippet: str


class Sessions:
    """All chats of a user. Any thread and several processes may use one file.

    Everything raises SessionError for a file that cannot be used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._revisions: dict[str, int] = {}  # as this object last saw them

    @classmethod
    def open(cls, path: Path | None = None, *, full_text: bool | None = None) -> Self:
        """Open the user's chats, or those in a file; it is made if it is not there."""
        return cls(Database(path or default_path(), full_text=full_text))

    @property
    def path(self) -> Path:
        return self._database.path

    def save(self, chat: Chat) -> None:
        """Write what is new in a chat, in one transaction; an empty one is not kept.

        Raises SessionError, and writes nothing, if another process has changed or
        deleted the chat since it was loaded or saved here.
        """
        data = chat.to_json()
        messages = [json.dumps(message) for message in data.pop("messages")]
        texts = [_searched(message) for message in chat.messages]
        with self._database.writing() as db:
            revision = self._next_revision(db, chat.id)
            if not messages:
                self._remove(db, chat.id)
            else:
                db.execute(
                    "INSERT INTO chats VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) "
                    "DO UPDATE SET title = excluded.title, updated = excluded.updated, "
                    "turns = excluded.turns, revision = excluded.revision, "
                    "data = excluded.data",
                    [
                        chat.id,
                        _writable(chat.title),
                        data["created"],
                        data["updated"],
                        len(chat.questions),
                        revision,
                        json.dumps(data),
                    ],
                )
                self._write(db, chat.id, messages, texts)
        if messages:
            self._revisions[chat.id] = revision
        else:
            self._revisions.pop(chat.id, None)

    def list(self, limit: int | None = None) -> tuple[Summary, ...]:
        """Return the chats, the latest first."""
        with self._database.reading() as db:
            rows = db.execute(
                "SELECT id, title, created, updated, turns FROM chats "
                "ORDER BY updated DESC, rowid DESC LIMIT ?",
                [-1 if limit is None else limit],
            ).fetchall()
        return tuple(Summary(**row) for row in rows)

    def search(self, text: str) -> tuple[Found, ...]:
        """Return the chats with a message, or a title, that holds every word of `text`.

        Parts of words count, capitals do not; the latest chats come first.
        """
        words = text.lower().split()
        if not words:
            return ()
        indexed = self._database.full_text and all(
            len(word) >= LEAST_INDEXED and "\0" not in word for word in words
        )
        where, wanted = "holds(text)", []
        if indexed:
            quoted = ['"' + word.replace('"', '""') + '"' for word in words]
            where = "number IN (SELECT rowid FROM words WHERE words MATCH ?)"
            wanted = [" AND ".join(quoted)]
        with self._database.reading() as db:
            db.create_function("holds", 1, lambda x: _place(x, words) is not None)
            rows = db.execute(
                "SELECT id, title, created, updated, turns, "
                f"(SELECT text FROM messages WHERE chat = id AND {where} "
                "ORDER BY place LIMIT 1) AS found FROM chats "
                "WHERE found IS NOT NULL OR holds(title) "
                "ORDER BY updated DESC, chats.rowid DESC",
                wanted,
            ).fetchall()
        return tuple(_found(dict(row), words) for row in rows)

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
        return as_markdown(self.load(id))

    def delete(self, id: str) -> str:
        """Overwrite a chat and its words in the index; return its whole id."""
        with self._database.writing() as db:
            id = self._whole_id(db, id)
            self._remove(db, id)
        self._revisions.pop(id, None)
        self._database.shrink()
        return id

    def _next_revision(self, db: sqlite3.Connection, id: str) -> int:
        row = db.execute("SELECT revision FROM chats WHERE id = ?", [id]).fetchone()
        known = self._revisions.get(id)
        if known is not None and (row is None or row["revision"] != known):
            happened = "deleted" if row is None else "gone on with"
            raise SessionError(
                f"the chat `{id[:SHOWN_ID]}` was {happened} by another program, so it "
                "is not saved here: branch it to keep what you have"
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
            db.execute("DELETE FROM messages WHERE chat = ? AND place >= ?", [id, same])
            self._database.forget(db)
        db.executemany(
            "INSERT INTO messages (chat, place, text, data) VALUES (?, ?, ?, ?)",
            [(id, n, texts[n], messages[n]) for n in range(same, len(messages))],
        )

    def _remove(self, db: sqlite3.Connection, id: str) -> None:
        db.execute("DELETE FROM messages WHERE chat = ?", [id])
        db.execute("DELETE FROM chats WHERE id = ?", [id])
        self._database.forget(db)

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
    return data_home() / FILE


def _searched(message: Any) -> str:
    """The text of what was said to and by the user; "" for all else."""
    said = message.role == "user" or (
        message.role == "assistant"
        and message.channel != "analysis"
        and not message.is_call
    )
    return _writable(message.text) if said else ""


def _writable(text: str) -> str:
    """SQLite takes UTF-8, which has no half of a pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _place(text: str, words: Sequence[str]) -> int | None:
    """Return where the first word stands in a text that holds all of them."""
    places = [text.lower().find(word) for word in words]
    return None if -1 in places else places[0]


def _found(row: dict[str, Any], words: Sequence[str]) -> Found:
    text = row.pop("found") or row["title"]
    chat = Summary(**row)
    start = max((_place(text, words) or 0) - SNIPPET // 2, 0)
    cut = " ".join(text[start : start + SNIPPET].split())
    before = "…" if start else ""
    after = "…" if start + SNIPPET < len(text) else ""
    return Found(chat, before + cut + after)
