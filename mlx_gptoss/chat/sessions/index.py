"""The full-text index of the messages: create, check, rebuild, and delete from it.

An SQLite index (FTS5) beside the table `messages`, filled by triggers. It can always be
rebuilt from the messages, so a broken index is dropped and created again. Each function
runs in the transaction of the connection it is given. Knows nothing of files or chats.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from typing import Any

TABLE, INSERT_TRIGGER, DELETE_TRIGGER = "words", "word_in", "word_out"
SHADOW_TABLES = (
    "words_data",
    "words_idx",
    "words_content",
    "words_docsize",
    "words_config",
)
ABANDONED_VIEW = "words_left"  # a view: an abandoned index has pages to free

# Trigrams, so that parts of words are found in any language.
CREATE_TABLE = f"""CREATE VIRTUAL TABLE {TABLE} USING fts5(
    text, content='messages', content_rowid='number', tokenize='trigram'
)"""
CREATE_INSERT_TRIGGER = (
    f"CREATE TRIGGER {INSERT_TRIGGER} AFTER INSERT ON messages BEGIN\n"
    "    INSERT INTO words (rowid, text) VALUES (new.number, new.text);\n"
    "END"
)
CREATE_DELETE_TRIGGER = (
    f"CREATE TRIGGER {DELETE_TRIGGER} AFTER DELETE ON messages BEGIN\n"
    "    INSERT INTO words (words, rowid, text) "
    "VALUES ('delete', old.number, old.text);\n"
    "END"
)

SECURE_DELETE_VERSION = (3, 42)  # supports FTS5 secure-delete
MAX_LEVELS = 100  # each deletion before 3.42 adds two; above 2000, SQLite fails
REBUILD_SHARE = 50  # rebuild when more than one message in 50 is deleted

# https://sqlite.org/src/file/ext/fts5/fts5_index.c: "Structure record"
STRUCTURE, COOKIE, SECOND_VERSION = 10, 4, b"\xff\x00\x00\x01"


class BrokenIndex(sqlite3.DatabaseError):
    """A part of the index is missing."""

    sqlite_errorname = "SQLITE_CORRUPT_VTAB"  # as SQLite says where it notices itself


@cache
def is_supported() -> bool:
    """Return whether this SQLite has FTS5 with trigrams."""
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute("CREATE VIRTUAL TABLE t USING fts5(x, tokenize='trigram')")
        except sqlite3.OperationalError as error:
            if "no such" not in str(error):  # module fts5, or tokenizer trigram
                raise
            return False
    return True


def exists(db: sqlite3.Connection) -> bool:
    """Return whether there is an index, or the remains of one."""
    return bool(_names(db))


def is_complete(db: sqlite3.Connection) -> bool:
    """Return whether table and triggers exist, or none where none are supported."""
    return _names(db) == (
        {TABLE, INSERT_TRIGGER, DELETE_TRIGGER} if is_supported() else set()
    )


def problem(db: sqlite3.Connection) -> str:
    """Compare the index with the messages; return what is wrong, "" for nothing.

    Needs a write transaction, but writes nothing.
    """
    if not is_complete(db):
        return (
            "a part of it is missing" if is_supported() else "this SQLite cannot use it"
        )
    if not is_supported():
        return ""
    try:
        db.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
        levels(db)
    except sqlite3.DatabaseError as error:
        if not may_have_caused(error):
            raise
        return str(error)
    return ""


def may_have_caused(error: sqlite3.Error) -> bool:
    """Return whether a damaged or missing part of an index can raise this."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith("SQLITE_CORRUPT") or name == "SQLITE_ERROR"


def levels(db: sqlite3.Connection) -> int:
    """Return the number of levels of the index: each search reads all of them."""
    row = db.execute(
        "SELECT block FROM words_data WHERE id = ?", [STRUCTURE]
    ).fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise BrokenIndex("the record of its structure is missing")
    block = row[0][COOKIE:].removeprefix(SECOND_VERSION)
    number = 0
    for byte in block:  # a varint: seven bits each, the highest first
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return number


def delete(
    db: sqlite3.Connection, where: str, values: Sequence[Any], *, indexed: bool
) -> None:
    """Delete messages, and their words from the index, without a trace."""
    command = f"DELETE FROM messages WHERE {where}"
    if not indexed:
        db.execute(command, values)
        return
    if not _should_rebuild(db, where, values):
        db.execute(command, values)
        if sqlite3.sqlite_version_info < SECURE_DELETE_VERSION:
            db.execute("INSERT INTO words (words) VALUES ('optimize')")
        return
    db.execute(f"DROP TRIGGER {DELETE_TRIGGER}")
    db.execute(command, values)
    rebuild(db)
    db.execute(CREATE_DELETE_TRIGGER)


def rebuild(db: sqlite3.Connection) -> None:
    """Fill the index again, with one level and without deleted words.

    Raises BrokenIndex if it uses pages that belong to the messages.
    """
    db.execute("INSERT INTO words (words) VALUES ('rebuild')")
    if sqlite3.sqlite_version_info >= SECURE_DELETE_VERSION:
        db.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")
    if not chats_are_intact(db):
        raise BrokenIndex("the index uses pages of the messages")


def chats_are_intact(db: sqlite3.Connection) -> bool:
    """Return whether all chats can be read, whatever the state of the index."""
    found = [
        db.execute(f"PRAGMA quick_check({table})").fetchone()[0]
        for table in ("chats", "messages")
    ]
    return found == ["ok", "ok"]


def recreate(db: sqlite3.Connection) -> None:
    """Drop the index, in whatever state, and create it if this SQLite supports it.

    Raises sqlite3.DatabaseError if its pages are too damaged to be freed: `abandon` it
    then.
    """
    _remove_from_schema(db, (TABLE,))  # DROP would open it first
    for name in SHADOW_TABLES:
        db.execute(f"DROP TABLE IF EXISTS {name}")
    db.execute(f"DROP VIEW IF EXISTS {ABANDONED_VIEW}")
    if is_supported():
        for statement in (CREATE_TABLE, CREATE_INSERT_TRIGGER, CREATE_DELETE_TRIGGER):
            db.execute(statement)
        rebuild(db)


def abandon(db: sqlite3.Connection) -> None:
    """Leave the pages of the index to a VACUUM; until then `is_abandoned` is true."""
    _remove_from_schema(db, (TABLE, *SHADOW_TABLES))
    db.execute(
        f"CREATE VIEW IF NOT EXISTS {ABANDONED_VIEW} AS SELECT 1"
    )  # only a row of the schema


def is_abandoned(db: sqlite3.Connection) -> bool:
    return ABANDONED_VIEW in _names(db)


def _remove_from_schema(db: sqlite3.Connection, names: Sequence[str]) -> None:
    for trigger in (INSERT_TRIGGER, DELETE_TRIGGER):
        db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    places = ", ".join("?" * len(names))
    db.execute("PRAGMA writable_schema = ON")
    # Indexes of a table have its name as `tbl_name`.
    db.execute(f"DELETE FROM sqlite_master WHERE tbl_name IN ({places})", names)
    db.execute("PRAGMA writable_schema = RESET")


def _should_rebuild(db: sqlite3.Connection, where: str, values: Sequence[Any]) -> bool:
    """Return whether rebuilding is faster than deleting from the index, or is due."""
    counted = f"SELECT count(*), count(*) FILTER (WHERE {where}) FROM messages"
    total, deleted = db.execute(counted, values).fetchone()
    return deleted > 0 and (
        deleted * REBUILD_SHARE > total - deleted
        or levels(db) > MAX_LEVELS
        or (
            sqlite3.sqlite_version_info >= SECURE_DELETE_VERSION
            and not _deletes_securely(db)
        )
    )


def _deletes_securely(db: sqlite3.Connection) -> bool:
    """Return whether secure-delete is on: an earlier SQLite did not set it."""
    row = db.execute("SELECT v FROM words_config WHERE k = 'secure-delete'").fetchone()
    return row is not None and bool(row[0])


def _names(db: sqlite3.Connection) -> set[str]:
    parts = (TABLE, INSERT_TRIGGER, DELETE_TRIGGER, ABANDONED_VIEW)
    found = db.execute(
        f"SELECT name FROM sqlite_master WHERE name IN ({', '.join('?' * len(parts))})",
        parts,
    )
    return {row[0] for row in found}
