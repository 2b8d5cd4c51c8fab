"""A file that is being downloaded: its start on disk, and the hash of that.

Every write is the system's at once, so that a process that is killed loses nothing.
Knows bytes; nothing of where they come from.
"""

import hashlib
import os
from pathlib import Path
from types import TracebackType

HASH_BYTES = 2**20


class PartialFile:
    """The start of a file: `size` bytes of it; what lies in `path` already counts."""

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
        """Append; a disk that fills up keeps what fitted, and that counts."""
        rest = memoryview(chunk)
        while rest:
            written = self._file.write(rest)
            if self._hash:
                self._hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def clear(self) -> None:
        """Forget everything that has come."""
        self._file.seek(0)
        self._file.truncate()
        self.size = 0
        if self._hash:
            self._hash = hashlib.sha256()

    def is_valid(self, sha256: str | None) -> bool:
        """Whether the bytes are those of a hash; without one they are."""
        return self._hash is None or self._hash.hexdigest() == sha256

    def move(self, path: Path) -> None:
        """Put the file where it belongs, once it is on the disk."""
        os.fsync(self._file.fileno())
        self.path.replace(path)
