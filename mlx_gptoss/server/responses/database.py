"""A private SQLite file, reopened for every operation and never trusted.

    database = Database(path, STEPS)          # migrations, one per schema version
    database.read(lambda db: db.execute(...).fetchall())
    database.change(work)                     # one transaction: all of it or nothing

The file may be removed, emptied or replaced while the server runs, because nothing
holds it open. A damaged file is moved aside and the operation repeated on a new one.
Disk errors raise StorageError. Thread-safe.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from mlx_gptoss.errors import StorageError
from mlx_gptoss.files import (
    SQLITE_FULL,
    SQLITE_REASONS,
    connect_private,
    explain_sqlite_error,
    is_sqlite_error,
    make_private_file,
    storage_errors,
)

log = logging.getLogger(__name__)

BUSY_SECONDS = 10.0
JOURNALS = ("-journal", "-wal", "-shm")  # suffixes of SQLite's own files
BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")
UNREADABLE = ("no such table", "no such column", "Could not decode to UTF-8")
NEWER = "a newer version of this program made it"

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class DamagedError(Exception):
    """The file does not hold what was written to it."""


class Database:
    """The file at `path`. Its methods raise StorageError if it cannot be used."""

    def __init__(
        self, path: Path, steps: Sequence[str], *, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self.path = path
        self._steps = steps
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._until = 0.0  # deadline of the operation that has the lock
        self._seen = False  # whether the file existed before

    def read(self, work: Work[T]) -> T:
        """Run `work` in a read transaction and return its result."""
        return self._run("begin", work)

    def change(self, work: Work[T]) -> T:
        """Run `work` in a write transaction and return its result."""
        return self._run("begin immediate", work)

    def remove(self, work: Work[T]) -> T:
        """Run `work`, which only deletes, even on a disk without room for a journal.

        Then the journal is kept in memory: a kill within these milliseconds may damage
        the file, but otherwise nothing could be deleted from a full disk.
        """
        try:
            return self.change(work)
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, sqlite3.Error) or is_sqlite_error(cause, *BUSY):
                raise
        return self._run("begin immediate", work, journal="memory")

    def _run(self, begin: str, work: Work[T], *, journal: str = "delete") -> T:
        with self._alone():
            try:
                return self._once(begin, work, journal)
            except DamagedError as error:
                self._set_aside(error)
            try:
                return self._once(begin, work, journal)
            except DamagedError as error:
                raise self._error("it is damaged: move it away") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock; threads and SQLite's locks together wait `busy_seconds`."""
        until = time.monotonic() + self._busy_seconds
        if not self._lock.acquire(timeout=self._busy_seconds):
            raise self._error(SQLITE_REASONS["SQLITE_BUSY"])
        self._until = until
        try:
            yield
        finally:
            self._lock.release()

    def _once(self, begin: str, work: Work[T], journal: str) -> T:
        with self._named(), closing(self._connect()) as connection:
            if journal != "delete":
                connection.execute(f"pragma journal_mode = {journal}")
            connection.execute(begin)
            try:
                done = work(connection)
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:  # SQLite may have rolled back already
                    connection.execute("rollback")
                raise
            return done

    def _connect(self) -> sqlite3.Connection:
        self._make_file()
        left = max(0.0, self._until - time.monotonic())
        connection = connect_private(self.path, left)
        try:
            self._make_tables(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_file(self) -> None:
        """Create the file if it is missing, readable only by its owner."""
        with storage_errors(self.path):
            if self._seen and not self.path.exists():
                log.warning("`%s` was removed: a new one is created", self.path)
            # File systems without modes, such as FAT, are accepted.
            status = make_private_file(self.path, must_restrict=False)
        self._seen, self._inode = True, status.st_ino

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        """Migrate the file to the newest version; a current one is not written to."""
        version, newest = _version(connection), len(self._steps)
        if version > newest:
            raise self._error(NEWER)
        if version == newest:
            return
        connection.execute("begin immediate")
        for step in self._steps[_version(connection) :]:
            for statement in step.split(";"):
                connection.execute(statement)
        connection.execute(f"pragma user_version = {newest}")
        connection.execute("commit")

    def _set_aside(self, error: DamagedError) -> None:
        """Rename a damaged file and its journals."""
        with storage_errors(self.path, "set aside"):
            if not self.path.exists() or self.path.stat().st_ino != self._inode:
                return  # another process did it already
            aside = _free_name(self.path)
            self.path.rename(aside)
            for ending in JOURNALS:
                journal = self.path.with_name(self.path.name + ending)
                if journal.exists():
                    journal.rename(aside.with_name(aside.name + ending))
        self._seen = False
        log.warning("`%s` is damaged (%s): kept as `%s`", self.path, error, aside.name)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn SQLite errors into DamagedError or StorageError."""
        try:
            yield
        except sqlite3.Error as error:
            if is_sqlite_error(error, *DAMAGE) or any(
                text in str(error) for text in UNREADABLE
            ):
                raise DamagedError(str(error)) from error
            why = explain_sqlite_error(error)
            raise self._error(why, full=is_sqlite_error(error, *SQLITE_FULL)) from error

    def _error(self, why: str, *, full: bool = False) -> StorageError:
        return StorageError(
            f"`{self.path}` cannot be used: {why}", reason=why, full=full
        )


def _version(connection: sqlite3.Connection) -> int:
    [version] = connection.execute("pragma user_version").fetchone()
    return version


def _free_name(path: Path) -> Path:
    """Return a name that no file has."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside
