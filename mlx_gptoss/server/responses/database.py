"""The SQLite file of a store: private, opened anew for every operation, never trusted.

    database = Database(path, STEPS)          # scripts, each from a version to the next
    database.read(lambda db: db.execute(...).fetchall())
    database.change(work)                     # one transaction: all of it or nothing

A file that was removed, emptied or replaced while the server runs is only another file:
nothing holds on to the old one. A damaged one is set aside at once, and the work done
again on a new one. What the disk refuses is a StorageError. Any thread may ask.
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
JOURNALS = ("-journal", "-wal", "-shm")  # endings of what belongs to a file
BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")
UNREADABLE = ("no such table", "no such column", "Could not decode to UTF-8")
NEWER = "a newer version of this program made it"

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class DamagedError(Exception):
    """What was read cannot be what was written."""


class Database:
    """See the module. Raises StorageError for a place that cannot be used."""

    def __init__(
        self, path: Path, steps: Sequence[str], *, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self.path = path
        self._steps = steps
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._until = 0.0  # when whoever has the lock gives up, by the clock
        self._seen = False  # whether the file was there before

    def read(self, work: Work[T]) -> T:
        """Return what `work` finds in one state of the file."""
        return self._run("begin", work)

    def change(self, work: Work[T]) -> T:
        """Do all of `work`, or nothing."""
        return self._run("begin immediate", work)

    def remove(self, work: Work[T]) -> T:
        """Do `work`, which only takes away, on a disk without room for a journal, too.

        There SQLite keeps the journal in memory. If the process is killed in these
        milliseconds the file may be damaged; else what should go could not.
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
        """Let one thread work; each waits `busy_seconds` in all, for whatever it is."""
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
                if connection.in_transaction:  # SQLite may have ended it itself
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
        """Make the file if it is not there; nobody else may read it."""
        with storage_errors(self.path):
            if self._seen and not self.path.exists():
                log.warning("`%s` was removed: a new one is created", self.path)
            # File systems without modes, such as FAT, are accepted.
            status = make_private_file(self.path, must_restrict=False)
        self._seen, self._inode = True, status.st_ino

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        """Bring the file to the newest version; one that is there is not written to."""
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
        """Give a damaged file another name, with its journal."""
        with storage_errors(self.path, "set aside"):
            if not self.path.exists() or self.path.stat().st_ino != self._inode:
                return  # another server was faster
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
        """Turn what SQLite reports into a DamagedError or a StorageError."""
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
    """A name that no file has, whatever the clock says."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside
