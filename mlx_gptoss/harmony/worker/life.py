"""One process of the worker: its start, its pipe, the masks it writes, its end.

    life = Life(on_answer, on_end)
    life.send({"id": 1, "do": "compile", ...})
    life.mask(place, size)           # what a thread that followed a text left there
    life.kill()

Knows nothing of grammars. `on_answer` gets each answer, `on_end` is called once, when
the process is gone or closed its end; both in a thread of the life's own.
"""

import errno
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import Any

import psutil

FOLLOWERS, COMPILERS = 4, 2  # threads in the process
SLOT = 1 << 16  # bytes of a mask: half a million tokens
NUMBER = 8  # bytes
MASKS = FOLLOWERS * SLOT
SHARED = MASKS + (FOLLOWERS + COMPILERS) * NUMBER  # then what each thread is at
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mlx_gptoss.harmony.worker.child import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
SEND_TIMEOUT = struct.pack("ll", 10, 0)  # a timeval: to a process that reads no more
Answer = Mapping[str, Any]


class Life:
    """Starts a process; see the module. Raises OSError if it cannot."""

    def __init__(
        self,
        on_answer: Callable[["Life", Answer], None],
        on_end: Callable[["Life"], None],
    ) -> None:
        self._on_answer = on_answer
        self._on_end = on_end
        self._sending = threading.Lock()
        self.vocabularies: set[int] = set()  # that it was sent
        self.read: set[int] = set()  # and those that it has read
        self.started = False
        masks = shared_file(SHARED)
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SEND_TIMEOUT)
        with theirs:
            try:
                self._shared = mmap.mmap(masks, SHARED)
                self._process = subprocess.Popen(
                    # An app that carries Python names it by `set_executable`.
                    [
                        *(os.fsdecode(spawn.get_executable()), "-I", "-c", START),
                        *(json.dumps(sys.path), str(theirs.fileno()), str(masks)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), masks),
                )
            except BaseException:
                ours.close()
                raise
            finally:
                os.close(masks)
        self._seen = psutil.Process(self._process.pid)
        self._link: Connection[Any, Any] = Connection(ours.detach())
        threading.Thread(target=self._listen, name="grammars", daemon=True).start()

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

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one that cannot arrive is no error: `on_end` says so."""
        written = json.dumps(message).encode()
        with self._sending:
            try:
                self._link.send_bytes(written)
            except OSError:
                self.kill()

    def mask(self, place: int, size: int) -> bytes:
        """Copy the first `size` bytes of a mask."""
        return self._shared[place * SLOT : place * SLOT + size]

    def began(self, place: int, number: int) -> bool:
        """Whether the thread at a place has begun with the task of that number."""
        return read_number(self._shared, place) == number

    def kill(self) -> None:
        self._process.kill()

    def _listen(self) -> None:
        while True:
            try:
                answer = json.loads(self._link.recv_bytes())
            except (EOFError, OSError):
                break
            self.started = True
            self._on_answer(self, answer)
        self._process.kill()  # it may have lost its pipe only
        self._process.wait()
        with self._sending:
            self._link.close()
        self._on_end(self)


def read_number(shared: mmap.mmap, place: int) -> int:
    """The number of the task that the thread at a place began last."""
    start = MASKS + place * NUMBER
    return int.from_bytes(shared[start : start + NUMBER], "little")


def write_number(shared: mmap.mmap, place: int, number: int) -> None:
    start = MASKS + place * NUMBER
    shared[start : start + NUMBER] = number.to_bytes(NUMBER, "little")


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
