"""SQLite files that only their owner can read, and reasons for SQLite's errors.

    make_private_file(path)
    connection = connect_private(path, 10.0)

Knows nothing of tables.
"""

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_gptoss.files.atomic import OWNER_FILE, OWNER_FOLDER

if TYPE_CHECKING:
    import sqlite3

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
# SQLite reports an exceeded quota or file size limit as a failed write.
SQLITE_FULL = (
    "SQLITE_FULL",
    "SQLITE_IOERR_WRITE",
    "SQLITE_IOERR_TRUNCATE",
    "SQLITE_IOERR_FSYNC",
)
SQLITE_REASONS = {  # by the beginning of an error's name; the first match counts
    "SQLITE_BUSY": "another program is using it: try again",
    "SQLITE_LOCKED": "another program is using it: try again",
    **dict.fromkeys(SQLITE_FULL, "the disk is full: make room"),
    "SQLITE_IOERR": "the disk failed: check it",
    "SQLITE_NOTADB": "it is not an SQLite database: move it away",
    "SQLITE_CORRUPT": "it is damaged: move it away, or restore a copy",
    "SQLITE_READONLY": "it is read-only: check its permissions",
    "SQLITE_CANTOPEN": "it cannot be opened: check the path and its permissions",
}


def make_private_file(path: Path, *, must_restrict: bool = True) -> os.stat_result:
    """Create an empty file of mode 0600 (its folder 0700), or restrict an existing one.

    A file that is readable but not writable is left unchanged. Raises OSError; without
    `must_restrict` not for a mode that cannot be changed.
    """
    if not path.parent.exists():
        path.parent.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)
        path.parent.chmod(OWNER_FOLDER)  # restore what the umask removed
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_FILE)
    except OSError as error:
        if error.errno in UNWRITABLE and path.is_file() and os.access(path, os.R_OK):
            return path.stat()
        raise
    try:
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o777 != OWNER_FILE:
            try:
                os.fchmod(handle, OWNER_FILE)
            except OSError:
                if must_restrict:
                    raise
        return status
    finally:
        os.close(handle)


def connect_private(path: Path, timeout: float) -> "sqlite3.Connection":
    """Open an SQLite file in autocommit mode; zeros overwrite deleted content.

    `timeout` is in seconds, for locks of other connections. Raises sqlite3.Error.
    """
    import sqlite3  # noqa: PLC0415 - most users of this module need no database

    connection = sqlite3.connect(path, timeout, isolation_level=None)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def explain_sqlite_error(error: "sqlite3.Error") -> str:
    """Return the reason for a failure and the remedy, without the file's name."""
    known = (
        text for key, text in SQLITE_REASONS.items() if is_sqlite_error(error, key)
    )
    return next(known, str(error))


def is_sqlite_error(error: "sqlite3.Error", *names: str) -> bool:
    """Whether an error's name (`SQLITE_IOERR_WRITE`) begins with one of `names`."""
    return getattr(error, "sqlite_errorname", "").startswith(names)
