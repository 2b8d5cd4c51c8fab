"""Runs of bytes from files into memory that is there already, by a few threads.

All runs of a request are in flight at once. Whatever goes wrong is raised as one
CheckpointError after the last of them has ended, so that no thread writes into memory
that its owner has given to somebody else. Knows nothing of experts or MLX.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.errors import CheckpointError

THREADS = 8
F_RDAHEAD = 45  # of macOS; Python has no name for it
CHANGED = "it changed while the model was running: load it again"

Preadv = Callable[[int, Sequence[memoryview], int], int]


@dataclass(frozen=True)
class ReadRange:
    """Bytes of `file` from `offset` on that are to fill `out`; `name` is for errors."""

    name: str
    file: Path
    offset: int
    out: memoryview


@dataclass(frozen=True)
class FileIdentity:
    """What tells that a file is still the one that was opened."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "FileIdentity":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class ExpertReader:
    """Open files and the threads that read them. `preadv` can be replaced in tests."""

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
        # Experts are read in no order: reading on past a run would be wasted.
        if sys.platform == "darwin":
            fcntl.fcntl(descriptor, F_RDAHEAD, 0)
        else:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def start(self, ranges: Sequence[ReadRange]) -> "PendingReads":
        """Begin to read; every run must be waited for."""
        return PendingReads(
            self, ranges, [self._pool.submit(self._read, run) for run in ranges]
        )

    def _read(self, run: ReadRange) -> None:
        descriptor, done = self._descriptors[run.file], 0
        while done < len(run.out):
            try:
                count = self._preadv(descriptor, [run.out[done:]], run.offset + done)
            except OSError as error:
                raise CheckpointError(
                    f"cannot read {run.name} in `{run.file}`: {error.strerror}"
                ) from error
            if count <= 0:
                raise CheckpointError(
                    f"`{run.file}` ended inside {run.name}: {CHANGED}"
                )
            done += count

    def check_unchanged(self, files: Iterable[Path]) -> None:
        """Raise CheckpointError if a file is no longer the one that was opened."""
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
        """End the threads and close the files. Twice is once."""
        self._pool.shutdown(cancel_futures=True)
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


class PendingReads:
    """Runs on their way."""

    def __init__(
        self,
        reader: ExpertReader,
        runs: Sequence[ReadRange],
        jobs: "list[Future[None]]",
    ) -> None:
        self._reader = reader
        self._files = {run.file for run in runs}
        self._jobs = jobs
        self.nbytes = sum(len(run.out) for run in runs)

    def wait(self) -> float:
        """Wait until all have ended, then raise for the first that failed.

        Returns the seconds waited.
        """
        started = time.perf_counter()
        failures = [job.exception() for job in self._jobs]
        self._jobs = []
        self._reader.check_unchanged(self._files)
        for failure in failures:
            if failure is not None:
                raise failure
        return time.perf_counter() - started
