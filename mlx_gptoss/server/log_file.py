"""A log file that survives rotation, removal and a full disk.

Lines are written unbuffered. Lines that the disk rejects are dropped and counted: a
warning goes to stderr when that starts, and a line to the log when it is over. Logging
never fails a request.
"""

import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mlx_gptoss.files import OWNER_FILE, explain_os_error, storage_errors

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class LogFile(logging.Handler):
    """Append records to a private file; `warn` is called with a message on failure.

    Raises StorageError if the file cannot be opened.
    """

    def __init__(self, path: Path, *, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn
        self._lost_lines = 0
        with storage_errors(path):
            self._handle = self._open()
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, to a new file if the old one was moved or removed."""
        text = self.format(record) + "\n"
        if self._lost_lines:
            text = f"\n{self._lost_lines} lines are missing here\n{text}"
        try:
            self._reopen_if_replaced()
            self._write(text)
            self._lost_lines = 0
        except OSError as error:
            if not self._lost_lines:
                self._report_failure(error)
            self._lost_lines += 1

    def close(self) -> None:
        self.acquire()
        try:
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
        finally:
            self.release()
        super().close()

    def _open(self) -> int:
        handle = os.open(self.path, FLAGS, OWNER_FILE)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            os.fchmod(handle, OWNER_FILE)
        return handle

    def _reopen_if_replaced(self) -> None:
        """Reopen the path if it no longer names the open file."""
        ours = os.fstat(self._handle)
        with suppress(FileNotFoundError):
            there = os.stat(self.path)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        new = self._open()
        os.close(self._handle)
        self._handle = new

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        while data:  # a disk that is nearly full accepts only a part
            data = data[os.write(self._handle, data) :]

    def _report_failure(self, error: OSError) -> None:
        why = explain_os_error(error)
        with suppress(OSError):  # stderr may be on the same disk
            self._warn(
                f"cannot write to the log `{self.path}`, the server continues: {why}"
            )
