"""The SQLite file of a user's chats: schema, transactions, permissions, named errors.

Only the owner can read the file (0600, whatever the umask); SQLite gives its journal
the same mode. Transactions are atomic, also after `kill -9`, and several processes may
use the file. Deleted content is overwritten with zeros. Knows nothing of chats beyond
the columns.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mlx_gptoss.chat.sessions import index
from mlx_gptoss.errors import SessionError
from mlx_gptoss.files import (
    SQLITE_REASONS,
    connect_private,
    explain_sqlite_error,
    is_sqlite_error,
    make_private_file,
)

APPLICATION = 0x67707473  # "gpts", in the header of the file
VERSION = 1
READ, WRITE = "BEGIN", "BEGIN IMMEDIATE"
BUSY_SECONDS = 10.0  # to wait for a lock of another process
PROGRESS_OPERATIONS = 100_000  # SQLite instructions, some milliseconds

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
    text TEXT NOT NULL,  -- searchable: "" for reasoning, calls and results
    data TEXT NOT NULL,
    UNIQUE (chat, place)
);
"""


class ChatDatabase:
    """A file with the schema above, created if it does not exist.

    `full_text=False` does without the full-text index; None uses it where SQLite has
    one. Raises SessionError for a file of another program or of a later version.
    """

    def __init__(self, path: Path, *, full_text: bool | None = None) -> None:
        self.path = path
        with self._sqlite_errors_named():
            make_private_file(path)
            with closing(self._connect()) as connection:
                self._prepare(connection, full_text)
                self.full_text = index.exists(connection) or (
                    full_text is not False and index.is_supported()
                )

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open a read transaction. Raises SessionError."""
        with self._sqlite_errors_named(), self._transaction(READ) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction; an exception rolls it back. Raises SessionError."""
        with self._sqlite_errors_named(), self._transaction(WRITE) as connection:
            self.check_index(connection)
            yield connection

    @property
    def searches_index(self) -> bool:
        """Whether the full-text index is used."""
        return self.full_text and index.is_supported()

    def check_index(self, connection: sqlite3.Connection) -> None:
        """Raise BrokenIndex if a part of the index is missing. Reads no content."""
        if self.full_text and not index.is_complete(connection):
            raise index.BrokenIndex("a part of the index is missing")

    def index_may_be_broken(self, error: SessionError, *, damage: bool = False) -> bool:
        """Return whether a broken index may have caused this error.

        With `damage`, only errors that a damaged file causes count.
        """
        cause = error.__cause__
        if not self.full_text or not isinstance(cause, sqlite3.Error):
            return False
        return (
            is_sqlite_error(cause, "SQLITE_CORRUPT")
            if damage
            else index.may_have_caused(cause)
        )

    def mend(self, *, thorough: bool = False) -> bool:
        """Rebuild a broken index; with `thorough`, any index, and vacuum the file.

        Returns whether it was rebuilt. Raises SessionError if it cannot be; messages
        are never changed.
        """
        with self._sqlite_errors_named():
            if not thorough:
                try:
                    return self._build_index()
                except sqlite3.DatabaseError as error:
                    if not is_sqlite_error(error, "SQLITE_CORRUPT"):
                        raise
            with self._transaction(WRITE) as connection:
                if not index.chats_are_intact(connection):
                    raise self._error(SQLITE_REASONS["SQLITE_CORRUPT"])
                index.abandon(connection)
            return self._build_index()

    def _build_index(self) -> bool:
        with closing(self._connect()) as connection:
            if index.is_abandoned(connection):
                connection.execute("VACUUM")
        with self._transaction(WRITE) as connection:
            if not index.problem(connection):  # another process was faster
                return False
            index.recreate(connection)
            free_pages(connection)
        return True

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with closing(self._connect()) as connection:
            connection.execute(begin)
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")
            if begin == WRITE:
                # Only if another program turned on the write-ahead log: deleted content
                # must not stay there.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _connect(self) -> sqlite3.Connection:
        # One connection per operation, so that any thread may call and no lock remains.
        connection = connect_private(self.path, BUSY_SECONDS)
        connection.row_factory = sqlite3.Row
        # Calls into Python now and then, so that Ctrl-C ends a long statement.
        connection.set_progress_handler(lambda: 0, PROGRESS_OPERATIONS)
        return connection

    def _prepare(self, connection: sqlite3.Connection, full_text: bool | None) -> None:
        """Check that the file is ours; create the tables in an empty one."""
        if self._is_ours(connection):
            return
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before any table
        connection.execute("BEGIN IMMEDIATE")
        if self._is_ours(connection):  # another process was faster
            connection.execute("ROLLBACK")
            return
        _run(connection, SCHEMA)
        if full_text is not False:
            index.recreate(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Return whether the tables exist. Raises SessionError if other tables do."""
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
    def _sqlite_errors_named(self) -> Iterator[None]:
        """Turn errors of SQLite and the system into a SessionError."""
        try:
            yield
        except sqlite3.Error as error:
            if is_sqlite_error(error, "SQLITE_INTERRUPT"):
                raise KeyboardInterrupt from error
            raise self._error(explain_sqlite_error(error)) from error
        except OSError as error:
            raise self._error(
                f"{error.strerror}: check the path and its permissions"
            ) from error

    def _error(self, problem: str) -> SessionError:
        return SessionError(f"cannot use the chats in `{self.path}`: {problem}")


def free_pages(connection: sqlite3.Connection) -> None:
    """Return the space of deleted rows to the disk, in this transaction."""
    [pages] = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(pages):
        # One page each time: Python's `sqlite3` ends a statement without columns after
        # its first step.
        connection.execute("PRAGMA incremental_vacuum")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run statements in the transaction; `executescript` would commit it."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
