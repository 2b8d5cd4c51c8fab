"""Examine a file of chats without changing it, for `doctor`."""

import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_gptoss.chat.sessions import index
from mlx_gptoss.chat.sessions.database import (
    APPLICATION,
    BUSY_SECONDS,
)
from mlx_gptoss.chat.sessions.store import default_path
from mlx_gptoss.files import SQLITE_REASONS, explain_sqlite_error, is_sqlite_error

INTACT = [("ok",)]


@dataclass(frozen=True)
class ChatsFileReport:
    """The content of a file of chats, and what is wrong with it ("" for nothing).

    With `damage`, not all chats can be read. A `broken_index` can be rebuilt from the
    chats. `levels` are those of the index, if it is readable.
    """

    path: str
    bytes: int
    sqlite: str
    chats: int = 0
    levels: int | None = None
    damage: str = ""
    broken_index: str = ""


def check_chats_file(path: Path | None = None) -> ChatsFileReport | None:
    """Examine the user's chats, or the file at `path`; None if there is no file."""
    path = path or default_path()
    found = ChatsFileReport(str(path), 0, sqlite3.sqlite_version)
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or str(error)
        return replace(found, damage=f"{why}: check the path and its permissions")
    if not stat.S_ISREG(status.st_mode):
        return replace(found, damage="it is not a regular file: move it away")
    found = replace(found, bytes=status.st_size)
    uri = f"{path.absolute().as_uri()}?mode=rw"  # creates no file
    try:
        with closing(
            sqlite3.connect(uri, BUSY_SECONDS, isolation_level=None, uri=True)
        ) as connection:
            return _check_tables(found, connection)
    except sqlite3.Error as error:
        return replace(found, damage=explain_sqlite_error(error))


def _check_tables(found: ChatsFileReport, db: sqlite3.Connection) -> ChatsFileReport:
    [application] = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION:
        empty = db.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        other = "it is a database of another program: move it away"
        return replace(found, damage="" if empty else other)
    if not index.chats_are_intact(db):
        return replace(found, damage=SQLITE_REASONS["SQLITE_CORRUPT"])
    [chats] = db.execute("SELECT count(*) FROM chats").fetchone()
    levels, broken = _check_index(db)
    if not broken and db.execute("PRAGMA quick_check(1)").fetchall() != INTACT:
        broken = "other pages of the file are damaged"
    return replace(found, chats=chats, levels=levels, broken_index=broken)


def _check_index(db: sqlite3.Connection) -> tuple[int | None, str]:
    """Return the levels of the index, and what is wrong with it."""
    if not index.exists(db):
        return None, ""
    try:
        db.execute(
            "BEGIN IMMEDIATE"
        )  # SQLite checks an index in a write transaction only
    except sqlite3.OperationalError as error:
        if not is_sqlite_error(error, "SQLITE_READONLY"):
            raise
        return (index.levels(db), "") if index.is_complete(db) else (None, "")
    try:
        broken = index.problem(db)
        return (None if broken else index.levels(db)), broken
    finally:
        db.execute("ROLLBACK")
