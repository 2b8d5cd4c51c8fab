"""A log in a file that may be full, renamed or removed while the server runs.

A line is written at once. What the disk does not take is lost and counted: stderr is
told when that begins, and the log when it is over. Logging never fails a request.
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
    """Append records to a file for its owner alone; `say` is told what goes wrong.

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
        """Write a record, to a new file if the old one is no longer there."""
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
        """Open the file again where another one, or none, has its name."""
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
        while data:  # a disk that is nearly full takes a part of it
            data = data[os.write(self._handle, data) :]

    def _report_failure(self, error: OSError) -> None:
        why = explain_os_error(error)
        with suppress(OSError):  # stderr may lie on the same disk
            self._warn(
                f"the log `{self.path}` is not written now, the server goes on: {why}"
            )
