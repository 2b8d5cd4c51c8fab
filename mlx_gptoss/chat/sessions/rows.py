"""The rows of chats and messages: insert, replace, delete, and look up by id.

Each function runs in the transaction of the connection it is given. Knows nothing of
files and of the index beyond `index.delete`.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from mlx_gptoss.chat.sessions import index
from mlx_gptoss.errors import SessionError

COLUMNS = ("id", "title", "created", "updated", "turns", "revision", "data")


def write_chat(db: sqlite3.Connection, row: Sequence[Any]) -> None:
    """Insert or update a chat; `row` has the values of COLUMNS."""
    db.execute(
        "INSERT INTO chats VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title, "
        "updated = excluded.updated, turns = excluded.turns, "
        "revision = excluded.revision, data = excluded.data",
        row,
    )


def write_messages(
    db: sqlite3.Connection,
    id: str,
    messages: Sequence[str],
    texts: Sequence[str],
    *,
    indexed: bool,
) -> None:
    """Replace the stored messages of a chat from the first that differs.

    `texts` are the searchable texts of `messages`.
    """
    rows = db.execute(
        "SELECT data FROM messages WHERE chat = ? ORDER BY place", [id]
    ).fetchall()
    pairs = zip(rows, messages, strict=False)
    same = next(
        (n for n, (row, new) in enumerate(pairs) if row["data"] != new),
        min(len(rows), len(messages)),
    )
    if same < len(rows):
        index.delete(db, "chat = ? AND place >= ?", [id, same], indexed=indexed)
    db.executemany(
        "INSERT INTO messages (chat, place, text, data) VALUES (?, ?, ?, ?)",
        [(id, n, texts[n], messages[n]) for n in range(same, len(messages))],
    )


def delete_chats(
    db: sqlite3.Connection, ids: Sequence[str] | None, *, indexed: bool
) -> int:
    """Delete these chats, or all, with their messages; return how many there were."""
    condition = ids_condition(db, ids)
    index.delete(db, f"chat {condition}", [], indexed=indexed)
    return db.execute(f"DELETE FROM chats WHERE id {condition}").rowcount


def complete_id(db: sqlite3.Connection, id: str) -> str:
    """Return the id of the one chat whose id begins with `id`.

    Raises SessionError for none, or for several.
    """
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


def ids_condition(db: sqlite3.Connection, ids: Sequence[str] | None) -> str:
    """Return SQL that compares an id with `ids`; with None, every id matches."""
    if ids is None:
        return "IS NOT NULL"
    db.execute("CREATE TEMP TABLE chosen (id TEXT PRIMARY KEY)")
    db.executemany("INSERT OR IGNORE INTO chosen VALUES (?)", [(id,) for id in ids])
    return "IN (SELECT id FROM temp.chosen)"
