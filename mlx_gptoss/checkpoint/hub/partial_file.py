"""The downloaded part of a file on disk, and its hash.

Writes are unbuffered, so that a killed process loses nothing. Knows nothing of the
source of the bytes: `transfer.py` resumes it.
"""

import hashlib
import os
from pathlib import Path
from types import TracebackType

HASH_BYTES = 2**20


class PartialFile:
    """The first `size` bytes of a file, including those already in `path`."""

    def __init__(self, path: Path, *, hashed: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._file = os.fdopen(opened, "r+b", buffering=0)
        self.path = path
        self.size = os.fstat(opened).st_size
        self._hash = hashlib.sha256() if hashed else None
        while self._hash and (chunk := self._file.read(HASH_BYTES)):
            self._hash.update(chunk)
        self._file.seek(self.size)

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, chunk: bytes) -> None:
        """Append; on a full disk, what was written is kept and counted."""
        rest = memoryview(chunk)
        while rest:
            written = self._file.write(rest)
            if self._hash:
                self._hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def clear(self) -> None:
        """Discard all bytes."""
        self._file.seek(0)
        self._file.truncate()
        self.size = 0
        if self._hash:
            self._hash = hashlib.sha256()

    def is_valid(self, sha256: str | None) -> bool:
        """Whether the bytes have the given hash; True without a hash."""
        return self._hash is None or self._hash.hexdigest() == sha256

    def move(self, path: Path) -> None:
        """Sync the file and rename it to `path`."""
        os.fsync(self._file.fileno())
        self.path.replace(path)
