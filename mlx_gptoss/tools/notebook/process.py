"""A shut-in Python process: cells in, what they wrote out, within limits.

    with Process(start, limits) as process:
        process.run("1 + 1")               # -> Result("2\\n")

Knows the pipes, the limits and how to end it; nothing of models or tools.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import IO, Any, Self

import psutil

from mlx_gptoss.errors import ToolError
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.tools.notebook.isolation import Limits, Start

START_SECONDS = 30.0
GRACE_SECONDS = 2.0  # for code to end after an interrupt, before it is killed
LOOK = 0.05  # seconds between two looks at memory and clock
CHUNK = 1 << 16
SHOWN = 16_000  # characters of output that are kept, half from either end


@dataclass(frozen=True)
class Result:
    """What a cell wrote; `ended` says why the process is gone, if it is."""

    text: str
    ended: str = ""


class Gone(Exception):
    """The process has ended, or had to be."""


class Process:
    """One kernel, from its start until it ends or is closed."""

    def __init__(self, start: Start, limits: Limits) -> None:
        """Start the kernel; raises ToolError if it is not isolated."""
        self.limits = limits
        self._interrupted = threading.Event()
        self._output = Output()
        replies, replies_end = os.pipe()
        life_end, self._life = os.pipe()
        with tempfile.NamedTemporaryFile() as outside, _listener() as listener:
            given = {
                "replies": replies_end,
                "life": life_end,
                "file": outside.name,
                "port": listener.getsockname()[1],
            }
            self._process = subprocess.Popen(
                start.command(given),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=start.environment,
                cwd="/",
                pass_fds=(replies_end, life_end),
                start_new_session=True,  # Ctrl-C is for us
            )
            self._replies = os.fdopen(replies, "rb", buffering=0)
            os.close(replies_end)
            os.close(life_end)
            self._pid = self._process.pid
            try:
                self._check_isolation()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, code: str) -> Result:
        """Run a cell; one at a time. A Result with `ended` is the last one."""
        self._interrupted.clear()
        self._output = Output()
        try:
            self._send({"code": code})
            notes = self._wait_for_cell()
        except Gone as gone:
            self.close()
            return Result(self._output.text, str(gone))
        return Result(self._output.text + notes)

    def interrupt(self) -> None:
        """End the cell under way; from any thread."""
        self._interrupted.set()

    def close(self) -> None:
        """End the process and all it holds."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._replies):
            assert pipe is not None
            _close(pipe)
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def _check_isolation(self) -> None:
        """Read the first replies: the process is there, and shut in."""
        reply = self._first_reply()
        if "pid" in reply:
            self._pid = reply["pid"]
            reply = self._first_reply()
        if "refused" in reply:
            raise ToolError(_refused(reply["refused"]))
        if reply["leaks"]:
            raise ToolError(
                "the `python` tool is not isolated here, its code could "
                f"{' and '.join(reply['leaks'])}: leave the tool out"
            )

    def _first_reply(self) -> dict[str, Any]:
        try:
            reply = self._reply(monotonic() + START_SECONDS)
        except Gone as gone:
            raise ToolError(_refused(self._last_words())) from gone
        if reply is None:
            raise ToolError(_refused(f"no answer within {START_SECONDS:g} s"))
        return reply

    def _last_words(self) -> str:
        lines = self._output.text.split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else "the process ended at once"

    # Conversation

    def _send(self, request: dict[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write((json.dumps(request) + "\n").encode())
            stdin.flush()
        except OSError as error:
            raise Gone("the process had ended") from error

    def _wait_for_cell(self) -> str:
        """Wait for the end of a cell; return what to say about it."""
        limit = self.limits.seconds
        if self._reply(monotonic() + limit) is not None:
            return ""
        why = "it was stopped" if self._interrupted.is_set() else _over(limit)
        self._interrupted.clear()
        self._signal(signal.SIGINT)
        if self._reply(monotonic() + GRACE_SECONDS) is not None:
            return f"[{why}; the variables are kept]\n"
        raise Gone(why)

    def _reply(self, end: float) -> dict[str, Any] | None:
        """Read output and one reply; None at `end`, or once interrupted.

        Raises Gone if the process ends or takes too much memory.
        """
        stdout = self._process.stdout
        assert stdout is not None
        line = b""
        with selectors.DefaultSelector() as ready:
            ready.register(stdout, selectors.EVENT_READ)
            ready.register(self._replies, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if monotonic() >= end or self._interrupted.is_set():
                    return None
                self._check_memory()
                for key, _ in ready.select(LOOK):
                    if key.fileobj is self._replies:
                        byte = self._replies.read(1)
                        if not byte:
                            self._drain(stdout)
                            return self._end()
                        line += byte
                    elif data := os.read(stdout.fileno(), CHUNK):
                        self._output.add(data)
                    else:
                        ready.unregister(stdout)
        self._drain(stdout)
        try:
            return json.loads(line)
        except ValueError as error:  # the code wrote where it should not
            raise Gone("the process broke its connection") from error

    def _drain(self, stdout: IO[bytes]) -> None:
        """Read what was written before the reply: it is all in the pipe."""
        os.set_blocking(stdout.fileno(), False)
        try:
            while data := os.read(stdout.fileno(), CHUNK):
                self._output.add(data)
        except BlockingIOError:
            return
        finally:
            os.set_blocking(stdout.fileno(), True)

    def _end(self) -> None:
        raise Gone("the process ended")

    def _check_memory(self) -> None:
        try:
            used = psutil.Process(self._pid).memory_info().rss
        except psutil.NoSuchProcess:
            return  # the end of its pipes tells
        if used > self.limits.memory:
            limit = format_bytes(self.limits.memory)
            raise Gone(f"the code took more than {limit} of memory")

    def _signal(self, number: int) -> None:
        try:
            os.kill(self._pid, number)
        except ProcessLookupError as error:
            raise Gone("the process ended") from error


class Output:
    """Text that may be endless: its two ends are kept."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        room = SHOWN // 2 - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        over = len(self._tail) - SHOWN // 2
        if over > 0:
            del self._tail[:over]
            self._dropped += over

    @property
    def text(self) -> str:
        parts = [bytes(self._head), bytes(self._tail)]
        if self._dropped:
            parts.insert(1, f"\n[... {self._dropped} bytes left out ...]\n".encode())
        return b"".join(parts).decode("utf-8", "replace")


def _refused(why: str) -> str:
    return (
        f"the `python` tool cannot be isolated here ({why}): leave it out, or, on "
        "Linux, let users make namespaces (`sysctl kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0`)"
    )


def _over(seconds: float) -> str:
    return f"the code ran longer than {seconds:g} s and was stopped"


def _listener() -> socket.socket:
    """A port of this machine that a connection would reach."""
    return socket.create_server(("127.0.0.1", 0))


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was not written yet is for nobody now
