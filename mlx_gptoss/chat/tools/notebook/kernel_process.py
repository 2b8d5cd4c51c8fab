"""A shut-in Python process: cells in, what they wrote out, within limits.

    with Process(start, limits) as process:
        process.run("1 + 1")               # -> Result("2\\n")

Between cells the process is stopped: no thread of it runs, and what it holds stays
within the limits. Knows the limits and how to end it; nothing of models or tools.
"""

import os
import secrets
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self

import psutil

from mlx_gptoss.chat.tools.notebook.cell_output import CellOutput
from mlx_gptoss.chat.tools.notebook.kernel_connection import (
    BROKEN_CONNECTION,
    KernelConnection,
    KernelGone,
)
from mlx_gptoss.chat.tools.notebook.kernel_monitor import (
    MAX_LOCKS,
    Drive,
    KernelMonitor,
    KernelUsage,
)
from mlx_gptoss.chat.tools.notebook.sandbox import NotebookLimits, Sandbox
from mlx_gptoss.errors import ToolError
from mlx_gptoss.memory import format_bytes

START_SECONDS = 30.0
GRACE_SECONDS = 2.0  # for code to end after an interrupt, before it is killed
END_SECONDS = 5.0  # for the guard to see the end of the process
MAX_THREADS = 512  # each takes memory of the system that no other limit counts
THREAD_LEFT_RUNNING = (
    "a thread was still running after the cell and would not end: wait for threads "
    "(`join`, `with`) before a cell ends"
)
PROCESS_ENDED = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class CellResult:
    """What a cell wrote; `ended` says why the process is gone, if it is."""

    text: str
    ended: str = ""


class KernelProcess:
    """One kernel, from its start until it ends or is closed."""

    def __init__(self, start: Sandbox, limits: NotebookLimits) -> None:
        """Start the kernel; raises ToolError if it is not isolated."""
        self.limits = limits
        self._output = CellOutput()
        replies, replies_end = os.pipe()
        life_end, self._owner_pipe = os.pipe()
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
            self._connection = KernelConnection(self._process, replies)
            os.close(replies_end)
            os.close(life_end)
            self._drive = _drive_of(start, self._process.pid)
            self._monitor = KernelMonitor(
                self._process.pid, self._drive, self._process.pid
            )
            try:
                self._check_isolation()
                self._monitor.stop()
                self._monitor.usage(limits.files)  # can it be counted at all?
                self._check_limits()
            except (KernelGone, *PROCESS_ENDED) as gone:
                self.close()
                raise ToolError(_isolation_error(str(gone))) from gone
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

    def run(self, code: str, interrupted: threading.Event) -> CellResult:
        """Run a cell; one at a time. A Result with `ended` is the last one.

        The cell ends early once `interrupted` is set.
        """
        if interrupted.is_set():
            return CellResult("[it was stopped before it began]\n")
        self._output = CellOutput()
        try:
            notes = self._run(code, interrupted)
        except KernelGone as gone:
            self.close()
            return CellResult(self._output.text, str(gone))
        except PROCESS_ENDED:
            self.close()
            return CellResult(self._output.text, "the process ended")
        return CellResult(self._output.text + notes)

    def close(self) -> None:
        """End the process and all it holds."""
        self._monitor.kill()
        if self._owner_pipe >= 0:
            os.close(self._owner_pipe)  # the guard ends
            self._owner_pipe = -1
        self._connection.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # Its start

    def _check_isolation(self) -> None:
        """Read the first replies: the process is there, and shut in."""
        first = self._first_reply()
        reply = self._first_reply() if "pid" in first else first
        if "refused" in reply:
            raise ToolError(_isolation_error(reply["refused"]))
        if reply["leaks"]:
            raise ToolError(
                "the `python` tool is not isolated here, its code could "
                f"{' and '.join(reply['leaks'])}: leave the tool out"
            )
        if "pid" in first:  # of the kernel: the process we have started guards it
            self._monitor = KernelMonitor(first["pid"], self._drive, self._process.pid)

    def _first_reply(self) -> dict[str, Any]:
        end = monotonic() + START_SECONDS
        try:
            reply = self._connection.wait_for_reply(self._output.add, lambda: True, end)
        except KernelGone as gone:
            raise ToolError(_isolation_error(self._last_line())) from gone
        if reply is None:
            raise ToolError(_isolation_error(f"no answer within {START_SECONDS:g} s"))
        return reply

    def _last_line(self) -> str:
        lines = self._output.text.split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else "the process ended at once"

    # A cell

    def _run(self, code: str, interrupted: threading.Event) -> str:
        """Run a cell and stop the process; return what to say of its end."""
        token = secrets.token_hex(8)  # code that makes up a reply does not know it
        self._connection.queue({"code": code, "token": token})
        self._monitor.resume()
        reply, note = self._wait_for_cell(interrupted)
        if reply.get("done") != token:
            raise KernelGone(BROKEN_CONNECTION)
        rests = not reply.get("stubborn") and self._monitor.wait_until_idle()
        self._monitor.stop()
        self._connection.drain(self._output.add)
        self._check_limits()
        if not rests:
            raise KernelGone(THREAD_LEFT_RUNNING)
        return note + _thread_note(reply.get("told"))

    def _wait_for_cell(
        self, interrupted: threading.Event
    ) -> tuple[dict[str, Any], str]:
        """Wait for the end of a cell; return the reply and what to say about it."""
        limit = self.limits.seconds
        if (reply := self._reply(limit, interrupted)) is not None:
            return reply, ""
        why = "it was stopped" if interrupted.is_set() else _over_time(limit)
        self._monitor.interrupt()
        if (reply := self._reply(GRACE_SECONDS, threading.Event())) is not None:
            return reply, f"[{why}; the variables are kept]\n"
        raise KernelGone(why)

    def _reply(
        self, seconds: float, interrupted: threading.Event
    ) -> dict[str, Any] | None:
        """Read output and the reply; None after `seconds`, or once interrupted."""

        def goes_on() -> bool:
            self._check_limits()
            return not interrupted.is_set()

        end = monotonic() + seconds
        return self._connection.wait_for_reply(self._output.add, goes_on, end)

    def _check_limits(self) -> None:
        """Raise Gone if the process has taken more than it may."""
        limits = self.limits
        try:
            use = self._monitor.usage(limits.files)
        except PROCESS_ENDED:
            return  # the end of its pipes tells
        except OSError as error:
            raise KernelGone(f"its files can no longer be counted ({error})") from error
        if use.memory > limits.memory:
            raise KernelGone(_over_memory(use, limits))
        if use.drive_bytes > limits.drive_bytes:
            most = format_bytes(limits.drive_bytes)
            raise KernelGone(f"the code kept more than {most} in files")
        if use.files > limits.files:
            raise KernelGone(
                f"the code kept more than {limits.files} files and folders"
            )
        if use.threads > MAX_THREADS:
            raise KernelGone(f"the code started more than {MAX_THREADS} threads")
        if use.locks > MAX_LOCKS:
            raise KernelGone(f"the code held more than {MAX_LOCKS} locks on files")


def _drive_of(start: Sandbox, guard: int) -> Drive:
    """The drive as we see it: one in memory is in the guard's root, and in no other."""
    if start.in_memory:
        return Drive(f"/proc/{guard}/root{start.drive}", in_memory=True)
    return Drive(start.drive, in_memory=False)


def _thread_note(threads: int | None) -> str:
    """Say that threads of the cell were told to end, if any were."""
    if not threads:
        return ""
    were = "1 thread was" if threads == 1 else f"{threads} threads were"
    return (
        f"[{were} still running after the cell and told to end: only a cell runs "
        "code; the variables are kept]\n"
    )


def _over_time(seconds: float) -> str:
    return f"the code ran longer than {seconds:g} s and was stopped"


def _over_memory(use: KernelUsage, limits: NotebookLimits) -> str:
    in_files = format_bytes(use.memory_in_files)
    files = f", {in_files} of it in files" if use.memory_in_files else ""
    return f"the code took more than {format_bytes(limits.memory)} of memory{files}"


def _isolation_error(why: str) -> str:
    return (
        f"the `python` tool cannot be isolated here ({why}): leave it out, or, on "
        "Linux, let users make namespaces (`sysctl kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0`)"
    )


def _listener() -> socket.socket:
    """A port of this machine that a connection would reach."""
    return socket.create_server(("127.0.0.1", 0))
