"""Start, talk to and end one worker process.

    process = WorkerProcess(on_answer, on_end)
    process.send({"id": 1, "do": "compile", ...})    # or a function that returns it
    process.mask(slot, size)         # the mask that a thread of the process wrote
    process.kill()

Knows nothing of grammars. `on_answer` gets each answer; `on_end` is called once, when
the process ends or closes its pipe. Both run in a thread of this object.
"""

import errno
import fcntl
import json
import mmap
import os
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import psutil

from mlx_gptoss.harmony.json_text import Json
from mlx_gptoss.harmony.python_child import python_executable, search_path

MASK_THREADS, COMPILE_THREADS = 4, 2  # threads in the process
MASK_BYTES = 1 << 16  # bytes of a mask: half a million tokens
NUMBER_BYTES = 8  # bytes
MASKS_BYTES = MASK_THREADS * MASK_BYTES
SHARED_BYTES = (
    MASKS_BYTES + (MASK_THREADS + COMPILE_THREADS) * NUMBER_BYTES
)  # then the task of each thread
FIRST_FREE = 3  # lower descriptors belong to the standard streams, open or not
START = (
    "import json, signal, sys; sys.path[:] = json.loads(sys.argv[1]); "
    # Signals of a terminal or service are for the parent; the child ends with it.
    "[signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM, "
    "signal.SIGHUP)]; "
    "from mlx_gptoss.harmony.constrain.worker.child import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
SEND_TIMEOUT = struct.pack("ll", 10, 0)  # a timeval: in case the process stops reading


class WorkerProcess:
    """A worker process; see the module. Raises OSError if it cannot be started."""

    def __init__(
        self,
        on_answer: Callable[["WorkerProcess", Json], None],
        on_end: Callable[["WorkerProcess"], None],
    ) -> None:
        self._on_answer = on_answer
        self._on_end = on_end
        self._sending = threading.Lock()  # held briefly
        self._writing = threading.Lock()
        self._later: list[Json | Callable[[], Json]] | None = []
        self.vocabularies: set[int] = set()  # sent to it
        self.vocabularies_loaded: set[int] = set()  # of which it has loaded these
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
        except RuntimeError as error:  # out of threads
            self._process.kill()
            self._process.wait()
            self._link.close()
            raise OSError(str(error)) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def memory(self) -> int:
        """Its resident memory in bytes."""
        try:
            return self._seen.memory_info().rss
        except psutil.Error:  # it is gone: `on_end` reports it
            return 0

    def send(self, message: Json | Callable[[], Json]) -> None:
        """Send a message, or what a function returns, in order.

        Waits neither for the process to start nor for the function. A failure to send
        is reported by `on_end`.
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
        """Write the queued messages until there are none."""
        while True:
            with self._sending:
                messages, self._later = self._later, []
                if not messages:
                    self._later = None
                    return
            for message in messages:
                self._write(message)

    def _write(self, message: Json | Callable[[], Json]) -> None:
        content = message() if callable(message) else message
        with self._writing:
            try:
                self._link.send_bytes(json.dumps(content).encode())
            except OSError:
                self.kill()

    def mask(self, slot: int, size: int) -> bytes:
        """Copy the first `size` bytes of a mask."""
        return self._shared[slot * MASK_BYTES : slot * MASK_BYTES + size]

    def has_begun(self, slot: int, number: int) -> bool:
        """Whether the thread of a slot has started the task with that number."""
        return read_number(self._shared, slot) == number

    def kill(self) -> None:
        self._process.kill()

    def disown(self) -> None:
        """Abandon the process in a forked child: it belongs to the parent."""
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
        self._process.kill()  # it may only have closed its pipe
        self._process.wait()
        with self._writing:
            self._link.close()
        self._on_end(self)


def _inherited(found: int, stack: ExitStack) -> int:
    """Return a descriptor that the standard streams of a child do not replace."""
    if found >= FIRST_FREE:
        return found
    moved = fcntl.fcntl(found, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
    stack.callback(os.close, moved)
    return moved


def read_number(shared: mmap.mmap, slot: int) -> int:
    """Read the number of the task that the thread of a slot started last."""
    start = MASKS_BYTES + slot * NUMBER_BYTES
    return int.from_bytes(shared[start : start + NUMBER_BYTES], "little")


def write_number(shared: mmap.mmap, slot: int, number: int) -> None:
    """Write the number of the task that the thread of a slot starts."""
    start = MASKS_BYTES + slot * NUMBER_BYTES
    shared[start : start + NUMBER_BYTES] = number.to_bytes(NUMBER_BYTES, "little")


def shared_file(size: int) -> int:
    """Open memory that a child can map, too: an unnamed file, fully allocated."""
    if hasattr(os, "memfd_create"):
        found = os.memfd_create("masks")
    else:
        with tempfile.TemporaryFile() as file:
            found = os.dup(file.fileno())
    # Written in full: a hole could not be filled on a full disk.
    if os.write(found, bytes(size)) == size:
        return found
    os.close(found)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
