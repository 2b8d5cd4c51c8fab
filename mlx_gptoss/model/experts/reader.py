"""Read byte ranges of files into existing memory, with a few threads.

All ranges of a request are in flight at once. Failures are raised as one
CheckpointError after the last read has ended, so that no thread writes into memory
that has been reused. Knows nothing of experts or MLX.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import Preadv, read_into

THREADS = 8
F_RDAHEAD = 45  # macOS; not in Python's fcntl
CHANGED = "it changed while the model was running: load it again"


@dataclass(frozen=True)
class ReadRange:
    """Bytes of `file` from `offset` on that fill `out`; `name` is for errors."""

    name: str
    file: Path
    offset: int
    out: memoryview


@dataclass(frozen=True)
class FileIdentity:
    """Identifies a file, to detect that it was replaced or changed."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "FileIdentity":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class ExpertReader:
    """Open files and the threads that read them; `preadv` can be replaced in tests."""

    def __init__(
        self,
        files: Iterable[Path],
        *,
        threads: int = THREADS,
        preadv: Preadv = os.preadv,
    ) -> None:
        self._preadv = preadv
        self._descriptors: dict[Path, int] = {}
        self._identities: dict[Path, FileIdentity] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="experts")
        try:
            for path in dict.fromkeys(files):
                self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointError(f"cannot read `{path}`: {error.strerror}") from error
        self._descriptors[path] = descriptor
        self._identities[path] = FileIdentity.of(os.fstat(descriptor))
        # Experts are read in random order, so read-ahead would be wasted.
        if sys.platform == "darwin":
            fcntl.fcntl(descriptor, F_RDAHEAD, 0)
        else:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def start(self, ranges: Sequence[ReadRange]) -> "PendingReads":
        """Start reading all ranges; the result must be waited for."""
        return PendingReads(
            self, ranges, [self._pool.submit(self._read, x) for x in ranges]
        )

    def _read(self, wanted: ReadRange) -> None:
        descriptor = self._descriptors[wanted.file]
        try:
            is_filled = read_into(
                descriptor, wanted.out, wanted.offset, preadv=self._preadv
            )
        except OSError as error:
            raise CheckpointError(
                f"cannot read {wanted.name} in `{wanted.file}`: {error.strerror}"
            ) from error
        if not is_filled:
            raise CheckpointError(
                f"`{wanted.file}` ended inside {wanted.name}: {CHANGED}"
            )

    def check_unchanged(self, files: Iterable[Path]) -> None:
        """Raise CheckpointError if a file is not the one that was opened."""
        for path in files:
            try:
                found = {os.fstat(self._descriptors[path]), os.stat(path)}
            except OSError as error:
                raise CheckpointError(
                    f"`{path}`: {error.strerror}; {CHANGED}"
                ) from error
            if any(FileIdentity.of(stat) != self._identities[path] for stat in found):
                raise CheckpointError(f"`{path}` was replaced: {CHANGED}")

    def close(self) -> None:
        """Stop the threads and close the files; idempotent."""
        self._pool.shutdown(cancel_futures=True)
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


class PendingReads:
    """Reads in flight."""

    def __init__(
        self,
        reader: ExpertReader,
        ranges: Sequence[ReadRange],
        jobs: "list[Future[None]]",
    ) -> None:
        self._reader = reader
        self._files = {x.file for x in ranges}
        self._jobs = jobs
        self.nbytes = sum(len(x.out) for x in ranges)

    def wait(self) -> float:
        """Wait for all reads, raise the first failure; return the seconds waited."""
        started = time.perf_counter()
        failures = [job.exception() for job in self._jobs]
        self._jobs = []
        self._reader.check_unchanged(self._files)
        for failure in failures:
            if failure is not None:
                raise failure
        return time.perf_counter() - started
