"""Measure and stop a kernel from outside, where its code cannot interfere.

    monitor = KernelMonitor(pid, drive, guard)
    monitor.usage(10_000)  # -> KernelUsage(memory=..., threads=..., files=..., ...)
    monitor.stop()         # no thread runs until monitor.resume()

Decides nothing. Reads /proc on Linux (proc(5)); elsewhere asks psutil, and counts the
files of the drive one by one.
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
IDLE_SECONDS = 1.0  # for threads of numerical libraries to stop spinning
IDLE_WINDOW = 0.02  # seconds: if no thread runs within it, the kernel is idle
CPU_TIME_WINDOW = 0.1  # the same, where only the sum over all threads is known
STOP_SECONDS = 5.0
COUNT_SECONDS = 1.0  # between counts of the files while a cell runs
BUSY_SECONDS = 0.005  # of CPU time within CPU_TIME_WINDOW
# Anonymous memory, mapped files, swap, and page tables. Not RssShmem: that is the
# drive, which is counted as a whole.
MEMORY_FIELDS = ("RssAnon", "RssFile", "VmSwap", "VmPTE")
SOCKET_BUFFER = Path("/proc/sys/net/core/wmem_default")
DEFAULT_SOCKET_BUFFER_BYTES = 212_992  # per socket, where a container hides it
LOCKS = Path("/proc/locks")
MAX_LOCKS = 10_000  # on files: counting stops there
STOPPED, RUNNING = "Tt", "RD"
BLOCK_BYTES = 512  # bytes, the unit of st_blocks


@dataclass(frozen=True)
class Drive:
    """The folder for files of a kernel: its own file system if `in_memory`."""

    path: str
    in_memory: bool


@dataclass(frozen=True)
class KernelUsage:
    """Resources of a kernel: bytes and counts; `memory` includes `memory_in_files`."""

    memory: int
    memory_in_files: int
    threads: int
    locks: int
    drive_bytes: int
    files: int


class KernelMonitor:
    """Measures, stops and resumes one kernel.

    Methods raise psutil.Error, FileNotFoundError or ProcessLookupError once the kernel
    has ended.
    """

    def __init__(self, pid: int, drive: Drive, guard: int) -> None:
        self._process = psutil.Process(pid)
        self._guard = guard  # outlives the kernel, in the same network namespace
        self._drive = drive
        self._buffer = socket_buffer_bytes()
        self._counted, self._counted_at = (0, 0), float("-inf")

    @property
    def pid(self) -> int:
        return self._process.pid

    def usage(self, max_files: int) -> KernelUsage:
        """Measure now; counts files up to `max_files` plus one."""
        drive_bytes, files = self._drive_use(max_files)
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
        """Wait until only the main thread runs; False if another does not stop."""
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
        """Stop all threads; return once they are stopped."""
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
        """End the kernel, stopped or not."""
        with suppress(psutil.NoSuchProcess):
            self._process.kill()

    def _drive_use(self, max_files: int) -> tuple[int, int]:
        if not self._drive.in_memory:
            if monotonic() > self._counted_at + COUNT_SECONDS or self._is_stopped():
                self._counted = count_files(self._drive.path, max_files)
                self._counted_at = monotonic()
            return self._counted
        drive = os.statvfs(self._drive.path)
        return (
            (drive.f_blocks - drive.f_bfree) * drive.f_frsize,
            drive.f_files - drive.f_ffree - 1,  # without the root folder
        )

    def _activity(self) -> dict[int, tuple[str, float]]:
        """Return the state of each thread, and a number that grows when it runs."""
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
    """Return the bytes on disk and the number of entries below `folder`.

    Stops at more than `most` entries. Raises OSError for a folder that cannot be read.
    """
    sizes: dict[tuple[int, int], int] = {}  # by device and inode: hard links count once
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


def socket_buffer_bytes(path: Path = SOCKET_BUFFER) -> int:
    """Return the bytes that a socket may buffer."""
    return int(path.read_text()) if path.exists() else DEFAULT_SOCKET_BUFFER_BYTES


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
    """Count the sockets of the network namespace, even those sent over sockets."""
    return Path(f"/proc/{guard}/net/unix").read_text().count("\n") - 1


def _locks(pid: int) -> int:
    """Count the file locks of a process; stops above MAX_LOCKS."""
    owner, count = str(pid), 0
    with LOCKS.open() as lines:
        for line in lines:
            count += owner in line.split()
            if count > MAX_LOCKS:
                break
    return count


def _number(fields: Mapping[str, str], name: str) -> int:
    """Return a count or kilobytes; 0 if a process that is ending has no such field."""
    return int(fields.get(name, "0").split()[0])


def _switches(fields: Mapping[str, str]) -> int:
    names = "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"
    return sum(_number(fields, name) for name in names)
