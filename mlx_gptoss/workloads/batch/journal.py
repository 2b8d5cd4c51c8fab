"""Two append-only files, and a journal of what of them is whole.

    with OutputJournal.open(output, errors, identity, heading=b"") as journal:
        for item in items:
            if not journal.has(item.index):
                journal.append(item.index, line, is_error=False)

The journal lies beside the output, as `OUTPUT.state`: its first line says what work
the output belongs to, and each further line is the index of an item, the file its line
went to, where that file ends, and the CRC-32 of the line, which is written before it.
So after a crash at any moment, what stands behind the last entry is cut off and done
again: no item is lost, none is there twice. Only the disk's own loss of written bytes
can make a file shorter than its entries say; then the entries from there on are
dropped. A file with other content than its entries say is refused.
"""

import fcntl
import json
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mlx_gptoss import files
from mlx_gptoss.errors import BatchError

SUFFIX = ".state"
FORMAT = 1
SYNC_SECONDS = 2.0
OUTPUT, ERRORS = 0, 1


def journal_path(output: Path) -> Path:
    """Return the path of an output's journal."""
    return output.with_name(output.name + SUFFIX)


class DoneItems:
    """Indices of items: all below one, and some beyond it."""

    def __init__(self) -> None:
        self._below = 0
        self._beyond: set[int] = set()

    def add(self, index: int) -> None:
        self._beyond.add(index)
        while self._below in self._beyond:
            self._beyond.remove(self._below)
            self._below += 1

    def __contains__(self, index: int) -> bool:
        return index < self._below or index in self._beyond

    def __len__(self) -> int:
        return self._below + len(self._beyond)


class OutputJournal:
    """An output, its file of errors, and the journal; for one process at a time.

    `failed` counts the items whose line is an error.
    """

    def __init__(self, output: Path, errors: Path, heading: bytes) -> None:
        self.output, self.errors = output, errors
        self.done = DoneItems()
        self.failed = 0
        self._heading = heading
        self._paths = (output, errors)
        self._ends = [len(heading), 0]
        self._files: list[BinaryIO] = []
        self._journal: BinaryIO | None = None
        self._synced = time.monotonic()

    @classmethod
    def open(
        cls,
        output: Path,
        errors: Path,
        identity: Mapping[str, Any],
        *,
        heading: bytes = b"",
    ) -> Self:
        """Open an output to go on with it, or create it.

        `identity` are JSON values that differ between different work; `heading` is the
        beginning of the output, before the first item.

        Raises BatchError for an output of other work, and StorageError.
        """
        journal = cls(output, errors, heading)
        with files.storage_errors(output):
            try:
                journal._open({"format": FORMAT, **identity})
            except BaseException:
                journal.close()
                raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, index: int, line: bytes, *, is_error: bool) -> None:
        """Add the line of an item. Raises StorageError."""
        which = ERRORS if is_error else OUTPUT
        assert self._journal is not None
        with files.storage_errors(self._paths[which]):
            _write(self._files[which], line)
            self._ends[which] += len(line)
            entry = [index, which, self._ends[which], zlib.crc32(line)]
            _write(self._journal, json.dumps(entry).encode() + b"\n")
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self.sync()
        self._note(index, which)

    def sync(self) -> None:
        """Flush all to the disk. Raises OSError."""
        assert self._journal is not None
        for file in (*self._files, self._journal):
            os.fsync(file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flush all to the disk and close it. Raises StorageError. Idempotent."""
        opened, self._files = self._files, []
        if self._journal is not None:
            opened.append(self._journal)
            self._journal = None
        with files.storage_errors(self.output):
            for file in opened:
                os.fsync(file.fileno())
                file.close()
            if len(opened) > 1 and not self.errors.stat().st_size:
                self.errors.unlink()

    def _note(self, index: int, which: int) -> None:
        self.done.add(index)
        self.failed += which == ERRORS

    def _open(self, identity: dict[str, Any]) -> None:
        place = journal_path(self.output)
        if not place.exists():
            for path in self._paths:
                if path.exists() and path.stat().st_size:
                    raise BatchError(
                        f"`{path}` exists, and no `{place.name}` says what it belongs "
                        "to: choose another name, or delete it"
                    )
            files.write(place, json.dumps(identity, sort_keys=True) + "\n")
        self._journal = place.open("r+b", buffering=0)
        self._lock(place)
        with _reader(self._journal) as reader:
            first = reader.readline()
            if not _says(first, identity):
                raise BatchError(_difference(self.output, place, first, identity))
            self._files = [_open_private(path) for path in self._paths]
            self._recover(reader, len(first))

    def _lock(self, place: Path) -> None:
        assert self._journal is not None
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatchError(
                f"another process is writing `{self.output}`: wait for it, or stop it"
            ) from None

    def _recover(self, entries: BinaryIO, whole: int) -> None:
        """Check the files against the entries, and cut off what is behind them.

        `whole` counts the bytes of the journal that are known to be whole.
        """
        assert self._journal is not None
        with ExitStack() as stack:
            readers = [stack.enter_context(_reader(file)) for file in self._files]
            heading = readers[OUTPUT].read(len(self._heading))
            begun = len(heading) == len(self._heading)
            if begun and heading != self._heading:
                raise self._changed(OUTPUT)
            for line in entries if begun else ():
                entry = _parse_entry(line)
                if entry is None or not self._holds(entry, readers):
                    break
                whole += len(line)
        self._journal.truncate(whole)
        self._journal.seek(whole)
        for which, file in enumerate(self._files):
            file.truncate(self._ends[which] if begun else 0)
            file.seek(0, os.SEEK_END)
        if not begun:
            _write(self._files[OUTPUT], self._heading)

    def _holds(self, entry: list[int], readers: list[BinaryIO]) -> bool:
        """Take in an entry whose line is there whole; False if it is cut short."""
        index, which, end, checksum = entry
        size = end - self._ends[which]
        line = readers[which].read(size)
        if len(line) < size:
            return False
        if zlib.crc32(line) != checksum:
            raise self._changed(which)
        self._ends[which] = end
        self._note(index, which)
        return True

    def _changed(self, which: int) -> BatchError:
        path = self._paths[which]
        return BatchError(
            f"`{path}` was changed since it was written: put it back, or delete it and "
            f"`{journal_path(self.output).name}` to start again"
        )


def _difference(
    output: Path, place: Path, first: bytes, identity: dict[str, Any]
) -> str:
    """Say in which way an output belongs to other work."""
    try:
        found = json.loads(first)
        names = [name for name in identity if found.get(name) != identity[name]]
    except (ValueError, AttributeError):
        return f"`{place}` is damaged: choose another name for the output"
    what = ", ".join(name.replace("_", " ") for name in names)
    return (
        f"`{output}` was begun with other work (it differs in: {what}): choose another "
        f"name, or delete it and `{place.name}`"
    )


def _open_private(path: Path) -> BinaryIO:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.OWNER_FILE)
    return os.fdopen(handle, "r+b", buffering=0)


def _write(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _reader(file: BinaryIO) -> BinaryIO:
    """Return a buffered reader of an open file, from its beginning."""
    reader = os.fdopen(os.dup(file.fileno()), "rb")
    reader.seek(0)
    return reader


def _says(line: bytes, identity: Mapping[str, Any]) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line) == identity
    except ValueError:
        return False


def _parse_entry(line: bytes) -> list[int] | None:
    """Return an entry; None for the line that was being written when all ended."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(entry, list) and len(entry) == 4
    return entry if whole and all(type(one) is int for one in entry) else None
