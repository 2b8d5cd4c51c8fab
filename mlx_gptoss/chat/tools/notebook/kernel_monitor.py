"""Watches a kernel from outside, where it cannot lie: its use, and whether it runs.

    watch = Watch(pid, drive, guard)
    watch.use()            # -> Use(memory=..., threads=..., drive_bytes=..., files=...)
    watch.stop()           # no thread of it runs until watch.go_on()

Reads and stops; decides nothing. Linux tells all of it in /proc (proc(5)); elsewhere
psutil does, and the drive's files are counted one by one.
"""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psutil

LINUX = sys.platform == "linux"
IDLE_SECONDS = 1.0  # for a numerical library's threads to end their spinning
IDLE_WINDOW = 0.02  # no thread runs within it: the kernel is at rest
CPU_TIME_WINDOW = 0.1  # the same where only the time of all threads is known
STOP_SECONDS = 5.0
COUNT_SECONDS = 1.0  # between two counts of files, one by one, while a cell runs
BUSY_SECONDS = 0.005  # of a processor within it
# Memory of its own, of files it has mapped, swapped out, and of its page tables.
# Not RssShmem: that is the drive, counted whole.
MEMORY_FIELDS = ("RssAnon", "RssFile", "VmSwap", "VmPTE")
SOCKET_BUFFER = Path("/proc/sys/net/core/wmem_default")
DEFAULT_SOCKET_BUFFER_BYTES = 212_992  # of a socket, where a container does not tell
LOCKS = Path("/proc/locks")
MAX_LOCKS = 10_000  # on files: no more are counted
STOPPED, RUNNING = "Tt", "RD"
BLOCK_BYTES = 512  # bytes, the unit of st_blocks


@dataclass(frozen=True)
class Drive:
    """A folder of files: a file system of its own if `in_memory`."""

    path: str
    in_memory: bool


@dataclass(frozen=True)
class KernelUsage:
    """What a kernel takes; `memory` includes `memory_in_files`."""

    memory: int
    memory_in_files: int
    threads: int
    locks: int
    drive_bytes: int
    files: int


class KernelMonitor:
    """Looks at one kernel, stops it and lets it go on.

    Raises psutil.Error, FileNotFoundError or ProcessLookupError once it has ended.
    """

    def __init__(self, pid: int, drive: Drive, guard: int) -> None:
        self._process = psutil.Process(pid)
        self._guard = guard  # lives longer, in the same network
        self._drive = drive
        self._buffer = socket_buffer_bytes()
        self._counted, self._counted_at = (0, 0), float("-inf")

    @property
    def pid(self) -> int:
        return self._process.pid

    def usage(self, most_files: int) -> KernelUsage:
        """Count what is used now; files up to `most_files`, and one more."""
        drive_bytes, files = self._drive_use(most_files)
        in_files = drive_bytes if self._drive.in_memory else 0
        if LINUX:
            fields = _status(f"/proc/{self._process.pid}")
            memory = 1024 * sum(_number(fields, name) for name in MEMORY_FIELDS)
            memory += _sockets(self._guard) * self._buffer
            threads, locks = _number(fields, "Threads"), _locks(self._process.pid)
        else:
            memory, locks = self._process.memory_info().rss, 0
            threads = self._process.num_threads()
        return KernelUsage(
            memory + in_files, in_files, threads, locks, drive_bytes, files
        )

    def wait_until_idle(self) -> bool:
        """Wait until no thread but the first runs; False if one goes on and on."""
        end = monotonic() + IDLE_SECONDS
        before = self._activity()
        while len(before) > 1 and monotonic() < end:
            sleep(IDLE_WINDOW if LINUX else CPU_TIME_WINDOW)
            after = self._activity()
            if not _ran(before, after):
                return True
            before = after
        return len(before) == 1

    def stop(self) -> None:
        """Stop all threads; returns once they are."""
        self._process.suspend()
        end = monotonic() + STOP_SECONDS
        while not self._is_stopped():
            if monotonic() > end:
                raise ProcessLookupError("a thread could not be stopped")
            sleep(0.001)

    def resume(self) -> None:
        self._process.resume()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, if it has not ended; stopped or not."""
        with suppress(psutil.NoSuchProcess):
            self._process.kill()

    def _drive_use(self, most_files: int) -> tuple[int, int]:
        if not self._drive.in_memory:
            if monotonic() > self._counted_at + COUNT_SECONDS or self._is_stopped():
                self._counted = count_files(self._drive.path, most_files)
                self._counted_at = monotonic()
            return self._counted
        drive = os.statvfs(self._drive.path)
        return (
            (drive.f_blocks - drive.f_bfree) * drive.f_frsize,
            drive.f_files - drive.f_ffree - 1,  # not the drive's own folder
        )

    def _activity(self) -> dict[int, tuple[str, float]]:
        """For each thread whether it runs, and a number that grows when it did."""
        if LINUX:
            return {
                int(task.name): (fields["State"][0], _switches(fields))
                for task, fields in self._tasks()
            }
        times = self._process.cpu_times()
        threads = range(self._process.num_threads())
        return dict.fromkeys(threads, ("", times.user + times.system))

    def _is_stopped(self) -> bool:
        if LINUX:
            return all(fields["State"][0] in STOPPED for _, fields in self._tasks())
        return self._process.status() == psutil.STATUS_STOPPED

    def _tasks(self) -> list[tuple[Path, Mapping[str, str]]]:
        found = []
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            try:
                found.append((task, _status(str(task))))
            except (FileNotFoundError, ProcessLookupError):
                continue  # this thread has just ended
        return found


def count_files(folder: str, most: int) -> tuple[int, int]:
    """Bytes on disk and number of files, folders and links below `folder`.

    Stops once there are more than `most`. Raises OSError where a folder cannot be
    read, or not by its path: then nobody knows.
    """
    sizes: dict[tuple[int, int], int] = {}  # by device and number: links count once
    files, waiting = 0, [folder]
    while waiting and files <= most:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                files += 1
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                sizes[found.st_dev, found.st_ino] = found.st_blocks * BLOCK_BYTES
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                if files > most:
                    break
    return sum(sizes.values()), files


def socket_buffer_bytes(told: Path = SOCKET_BUFFER) -> int:
    """Bytes that a socket may hold before anybody reads them."""
    return int(told.read_text()) if told.exists() else DEFAULT_SOCKET_BUFFER_BYTES


def _ran(
    before: Mapping[int, tuple[str, float]], after: Mapping[int, tuple[str, float]]
) -> bool:
    if LINUX:
        return before != after or any(state in RUNNING for state, _ in after.values())
    spent = max(after.values())[1] - max(before.values())[1]
    return spent > BUSY_SECONDS


def _status(process: str) -> Mapping[str, str]:
    lines = Path(process, "status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (x.partition(":") for x in lines)}


def _sockets(guard: int) -> int:
    """The sockets of its network, even those on their way in another socket."""
    return Path(f"/proc/{guard}/net/unix").read_text().count("\n") - 1


def _locks(pid: int) -> int:
    """Locks on files that a process holds; stops beyond MOST_LOCKS."""
    owner, count = str(pid), 0
    with LOCKS.open() as lines:
        for line in lines:
            count += owner in line.split()
            if count > MAX_LOCKS:
                break
    return count


def _number(fields: Mapping[str, str], name: str) -> int:
    """A count or kilobytes; none where a process that ends tells none."""
    return int(fields.get(name, "0").split()[0])


def _switches(fields: Mapping[str, str]) -> int:
    names = "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"
    return sum(_number(fields, name) for name in names)
