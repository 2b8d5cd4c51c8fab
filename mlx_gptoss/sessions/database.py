"""One SQLite file for one user: schema, transactions, permissions, named errors.

The file can be read by its owner alone (0600, whatever the umask), and SQLite gives its
journal the same mode. A transaction is whole or not there, also after `kill -9`, and
several processes may take turns. What is deleted is overwritten with zeros. Knows
nothing of chats beyond the columns.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mlx_gptoss.errors import SessionError

APPLICATION = 0x67707473  # "gpts": whose file this is
VERSION = 1
PATIENCE = 10.0  # seconds to wait for another process
OWNER_FILE, OWNER_FOLDER = 0o600, 0o700

SCHEMA = """
CREATE TABLE chats (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    turns INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    data TEXT NOT NULL  -- all of `Chat.to_json` but the messages
);
CREATE INDEX chats_by_time ON chats (updated);
CREATE TABLE messages (
    number INTEGER PRIMARY KEY,
    chat TEXT NOT NULL REFERENCES chats ON DELETE CASCADE,
    place INTEGER NOT NULL,
    text TEXT NOT NULL,  -- what is searched: "" for reasoning, calls and results
    data TEXT NOT NULL,
    UNIQUE (chat, place)
);
"""
# Three letters make a word of it, so that parts of words are found in any language.
FULL_TEXT = """
CREATE VIRTUAL TABLE words USING fts5(
    text, content='messages', content_rowid='number', tokenize='trigram'
);
CREATE TRIGGER word_in AFTER INSERT ON messages BEGIN
    INSERT INTO words (rowid, text) VALUES (new.number, new.text);
END;
CREATE TRIGGER word_out AFTER DELETE ON messages BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.number, old.text);
END;
"""
FORGETS_AT_ONCE = (3, 42)  # SQLite's full-text index can, from this version on

PROBLEMS = {
    "SQLITE_BUSY": "another program is using it: try again",
    "SQLITE_LOCKED": "another program is using it: try again",
    "SQLITE_FULL": "the disk is full: make room",
    "SQLITE_NOTADB": "it holds no chats: move it away",
    "SQLITE_CORRUPT": "it is damaged: move it away, or restore a copy",
    "SQLITE_READONLY": "it cannot be written: check its permissions",
    "SQLITE_CANTOPEN": "it cannot be opened: check the path and its permissions",
}


class Database:
    """A file of the schema above, made if it is not there.

    `full_text` False does without SQLite's full-text index; None takes it where there
    is one. Raises SessionError for a file of another program or of a later version.
    """

    def __init__(self, path: Path, *, full_text: bool | None = None) -> None:
        self.path = path
        with self._named():
            _make_private(path)
            with closing(self._connect()) as connection:
                self._prepare(connection, full_text)
                self.full_text = _has_table(connection, "words")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """See one state of the file. Raises SessionError for what goes wrong."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Change the file: all of it or, after an exception, nothing."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def forget(self, connection: sqlite3.Connection) -> None:
        """Take out of the full-text index what was deleted in this transaction."""
        if self.full_text and sqlite3.sqlite_version_info < FORGETS_AT_ONCE:
            connection.execute("INSERT INTO words (words) VALUES ('optimize')")

    def shrink(self) -> None:
        """Give the room of what was deleted back to the disk."""
        with self._named(), closing(self._connect()) as connection:
            connection.execute("PRAGMA incremental_vacuum").fetchall()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._named(), closing(self._connect()) as connection:
            connection.execute(begin)
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        # A connection an operation: any thread may ask, and nothing stays locked.
        connection = sqlite3.connect(self.path, PATIENCE, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    def _prepare(self, connection: sqlite3.Connection, full_text: bool | None) -> None:
        """Check whose file this is; make the tables in an empty one."""
        if self._is_ours(connection):
            return
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before any table
        connection.execute("BEGIN IMMEDIATE")
        if self._is_ours(connection):  # another process was faster
            connection.execute("ROLLBACK")
            return
        _run(connection, SCHEMA)
        if full_text is not False:
            _add_full_text(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are there. Raises SessionError if others are."""
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            return False
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise self._error("it is a database of another program: move it away")
        if version != VERSION:
            raise self._error(
                f"it is of version {version}, and this mlx-gptoss reads {VERSION}: "
                "update mlx-gptoss"
            )
        return True

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what SQLite and the system report into a SessionError."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            known = [text for key, text in PROBLEMS.items() if name.startswith(key)]
            raise self._error(known[0] if known else str(error)) from error
        except OSError as error:
            raise self._error(
                f"{error.strerror}: check the path and its permissions"
            ) from error

    def _error(self, problem: str) -> SessionError:
        return SessionError(f"chats are kept in `{self.path}`, but {problem}")


def _make_private(path: Path) -> None:
    """Make the file and, where needed, its folder; nobody else may look in."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, mode=OWNER_FOLDER)
        path.parent.chmod(OWNER_FOLDER)  # whatever the umask took away
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_FILE)
    try:
        if os.fstat(handle).st_mode & 0o777 != OWNER_FILE:
            os.fchmod(handle, OWNER_FILE)
    finally:
        os.close(handle)


def _add_full_text(connection: sqlite3.Connection) -> None:
    """Index the messages, if this SQLite can."""
    try:
        _run(connection, FULL_TEXT)
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):  # module fts5, or tokenizer trigram
            raise
        return
    if sqlite3.sqlite_version_info >= FORGETS_AT_ONCE:
        connection.execute(
            "INSERT INTO words (words, rank) VALUES ('secure-delete', 1)"
        )


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run statements within the transaction; `executescript` would end it."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [name])
    return found.fetchone() is not None
