"""The servers of this user that run now: a small private file each.

    with registered("http://127.0.0.1:8080", ["demo"]):
        serve(...)
    for server in running_servers(): server.pid, server.url

A server keeps its file locked. The system drops the lock when the process ends, however
it ends, so a file without a lock was left by a killed server, and is removed. Nothing
about requests is in it, and no key.
"""

import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mlx_gptoss.errors import StorageError
from mlx_gptoss.files import data_folder, make_folder, write

log = logging.getLogger(__name__)

FOLDER = "servers"
POLL_SECONDS = 0.05
MOST_BYTES = 2**20  # of a file


@dataclass(frozen=True)
class RunningServer:
    """A server: `models` are the names it serves, `started` is seconds since 1970."""

    pid: int
    url: str
    models: Sequence[str]
    started: float


def servers_folder() -> Path:
    """Return the folder of the files; it may not exist yet."""
    return data_folder() / FOLDER


@contextmanager
def registered(url: str, models: Sequence[str]) -> Iterator[None]:
    """Register this process as a server for the length of the `with`.

    A server that cannot be registered runs nevertheless, with a warning in its log.
    """
    server = RunningServer(os.getpid(), url, list(models), time.time())
    path = servers_folder() / f"{server.pid}.json"
    try:
        make_folder(path.parent)
        lock = _write_locked(path, json.dumps(asdict(server)) + "\n")
    except (OSError, StorageError) as error:
        log.warning("`mlx-gptoss ps` will not list this server: %s", error)
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def running_servers() -> list[RunningServer]:
    """Return the servers that run, the oldest first; remove files of killed ones."""
    found = [_read_if_running(path) for path in servers_folder().glob("*.json")]
    return sorted(filter(None, found), key=lambda server: server.started)


def stop_server(server: RunningServer, *, now: bool = False) -> None:
    """Ask a server to end; `now` does not wait for running answers."""
    os.kill(server.pid, signal.SIGTERM)
    if now:
        time.sleep(POLL_SECONDS)  # two signals at once would be one
        if server in running_servers():
            os.kill(server.pid, signal.SIGTERM)


def wait_for_end(server: RunningServer) -> None:
    """Wait until a server has ended."""
    while server in running_servers():
        time.sleep(POLL_SECONDS)


def _write_locked(path: Path, text: str) -> int:
    """Write a file and lock it; return the open file, which holds the lock."""
    while True:
        write(path, text)
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
        except OSError:  # a disk without locks
            path.unlink()
            os.close(lock)
            raise
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)  # another process took it for one of a killed server


def _read_if_running(path: Path) -> RunningServer | None:
    """Return the server of a file; remove the file if that was killed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            server = RunningServer(**json.loads(os.read(file, MOST_BYTES)))
            if _is_alive(server.pid):  # else a child of it holds the lock
                return server
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(file)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
