"""One process of the worker: its start, its pipe, the masks it writes, its end.

    life = Life(on_answer, on_end)
    life.send({"id": 1, "do": "compile", ...})    # or what returns something long
    life.mask(place, size)           # what a thread that followed a text left there
    life.kill()

Knows nothing of grammars. `on_answer` gets each answer, `on_end` is called once, when
the process is gone or closed its end; both in a thread of the life's own.
"""

import errno
import fcntl
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import Any

import psutil

import mlx_gptoss
from mlx_gptoss.harmony.json_text import Json

MASK_THREADS, COMPILE_THREADS = 4, 2  # threads in the process
MASK_BYTES = 1 << 16  # bytes of a mask: half a million tokens
NUMBER_BYTES = 8  # bytes
MASKS_BYTES = MASK_THREADS * MASK_BYTES
SHARED_BYTES = (
    MASKS_BYTES + (MASK_THREADS + COMPILE_THREADS) * NUMBER_BYTES
)  # then what each thread is at
FIRST_FREE = 3  # the descriptors below belong to the standard streams, closed or not
START = (
    "import json, signal, sys; sys.path[:] = json.loads(sys.argv[1]); "
    # Ctrl-C and the end of a terminal or service are for who asks; this ends with it.
    "[signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM, "
    "signal.SIGHUP)]; "
    "from mlx_gptoss.harmony.constrain.worker.child import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
SEND_TIMEOUT = struct.pack("ll", 10, 0)  # a timeval: to a process that reads no more
HOME = os.path.dirname(os.path.dirname(mlx_gptoss.__file__))


class WorkerProcess:
    """Starts a process; see the module. Raises OSError if it cannot."""

    def __init__(
        self,
        on_answer: Callable[["WorkerProcess", Json], None],
        on_end: Callable[["WorkerProcess"], None],
    ) -> None:
        self._on_answer = on_answer
        self._on_end = on_end
        self._sending = threading.Lock()  # held for a moment
        self._writing = threading.Lock()
        self._later: list[Json | Callable[[], Json]] | None = []
        self.vocabularies: set[int] = set()  # that it was sent
        self.vocabularies_read: set[int] = set()  # and those that it has read
        self.started = False
        with ExitStack() as stack:
            masks = shared_file(SHARED_BYTES)
            stack.callback(os.close, masks)
            ours, theirs = map(stack.enter_context, socket.socketpair())
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SEND_TIMEOUT)
            given = [_inherited(one, stack) for one in (theirs.fileno(), masks)]
            self._shared = mmap.mmap(masks, SHARED_BYTES)
            self._process = subprocess.Popen(
                [
                    python_executable(),
                    "-I",
                    "-c",
                    START,
                    search_path(),
                    *map(str, given),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=given,
            )
            self._seen = psutil.Process(self._process.pid)
            self._link: Connection[Any, Any] = Connection(ours.detach())
        listener = threading.Thread(target=self._listen, name="grammars", daemon=True)
        try:
            listener.start()
        except RuntimeError as error:  # the system has no more threads
            self._process.kill()
            self._process.wait()
            self._link.close()
            raise OSError(str(error)) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def memory(self) -> int:
        """Bytes that it holds now."""
        try:
            return self._seen.memory_info().rss
        except psutil.Error:  # it is gone: `on_end` says so
            return 0

    def send(self, message: Json | Callable[[], Json]) -> None:
        """Send a message, or what a call returns, behind all that was sent before.

        Nobody waits until the process has started, nor for a call. What cannot arrive
        is no error: `on_end` says so.
        """
        with self._sending:
            if self._later is None and callable(message):
                self._later = []
                threading.Thread(target=self._catch_up, daemon=True).start()
            if self._later is None:
                self._write(message)
            else:
                self._later.append(message)

    def _catch_up(self) -> None:
        """Write what was to be sent until there is nothing left."""
        while True:
            with self._sending:
                messages, self._later = self._later, []
                if not messages:
                    self._later = None
                    return
            for message in messages:
                self._write(message)

    def _write(self, message: Json | Callable[[], Json]) -> None:
        said = message() if callable(message) else message
        with self._writing:
            try:
                self._link.send_bytes(json.dumps(said).encode())
            except OSError:
                self.kill()

    def mask(self, place: int, size: int) -> bytes:
        """Copy the first `size` bytes of a mask."""
        return self._shared[place * MASK_BYTES : place * MASK_BYTES + size]

    def has_begun(self, place: int, number: int) -> bool:
        """Whether the thread at a place has begun with the task of that number."""
        return read_number(self._shared, place) == number

    def kill(self) -> None:
        self._process.kill()

    def disown(self) -> None:
        """Let go of a process that belongs to the one who was forked."""
        self._link.close()
        self._process.returncode = 0

    def _listen(self) -> None:
        while True:
            try:
                answer = json.loads(self._link.recv_bytes())
            except (EOFError, OSError):
                break
            first, self.started = not self.started, True
            self._on_answer(self, answer)
            if first:
                self._catch_up()
        self._process.kill()  # it may have lost its pipe only
        self._process.wait()
        with self._writing:
            self._link.close()
        self._on_end(self)


def python_executable() -> str:
    """The Python to start. An app that carries one names it by `set_executable`."""
    found = spawn.get_executable()
    if not found:
        raise OSError("no Python is known: name one, `multiprocessing.set_executable`")
    return os.fsdecode(found)


def search_path() -> str:
    """Where modules are, as JSON; this package is found from another folder, too."""
    return json.dumps([*(one for one in sys.path if isinstance(one, str)), HOME])


def _inherited(found: int, stack: ExitStack) -> int:
    """A descriptor for a child, which the standard streams of that do not replace."""
    if found >= FIRST_FREE:
        return found
    moved = fcntl.fcntl(found, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
    stack.callback(os.close, moved)
    return moved


def read_number(shared: mmap.mmap, place: int) -> int:
    """The number of the task that the thread at a place began last."""
    start = MASKS_BYTES + place * NUMBER_BYTES
    return int.from_bytes(shared[start : start + NUMBER_BYTES], "little")


def write_number(shared: mmap.mmap, place: int, number: int) -> None:
    start = MASKS_BYTES + place * NUMBER_BYTES
    shared[start : start + NUMBER_BYTES] = number.to_bytes(NUMBER_BYTES, "little")


def shared_file(size: int) -> int:
    """Open memory that a child can map too: a file without a name, all of it there."""
    if hasattr(os, "memfd_create"):
        found = os.memfd_create("masks")
    else:
        with tempfile.TemporaryFile() as file:
            found = os.dup(file.fileno())
    # All of it is written: a hole could not be filled on a full disk.
    if os.write(found, bytes(size)) == size:
        return found
    os.close(found)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
