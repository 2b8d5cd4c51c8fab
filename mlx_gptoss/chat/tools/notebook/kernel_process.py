"""A sandboxed Python process (the kernel): cells in, their output out, within limits.

    with KernelProcess(sandbox, limits) as kernel:
        kernel.run("1 + 1", threading.Event())     # -> CellResult("2\\n")

Between cells the process is stopped: none of its threads runs, and its resources stay
within the limits. Knows how to end it; nothing of models or tools.
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
from mlx_gptoss.chat.tools.notebook.kernel_limits import exceeded_limit
from mlx_gptoss.chat.tools.notebook.kernel_monitor import (
    Drive,
    KernelMonitor,
)
from mlx_gptoss.chat.tools.notebook.sandbox import NotebookLimits, Sandbox
from mlx_gptoss.errors import ToolError

START_SECONDS = 30.0
GRACE_SECONDS = 2.0  # between an interrupt and a kill
END_SECONDS = 5.0  # for the guard to notice the end of the process
THREAD_LEFT_RUNNING = (
    "a thread was still running after the cell and would not end: wait for threads "
    "(`join`, `with`) before a cell ends"
)
PROCESS_ENDED = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class CellResult:
    """The output of a cell; `ended` says why the process is gone, if it is."""

    text: str
    ended: str = ""


class KernelProcess:
    """A kernel, from its start until it ends or is closed."""

    def __init__(self, sandbox: Sandbox, limits: NotebookLimits) -> None:
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
                sandbox.command(given),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=sandbox.environment,
                cwd="/",
                pass_fds=(replies_end, life_end),
                start_new_session=True,  # Ctrl-C is for us
            )
            self._connection = KernelConnection(self._process, replies)
            os.close(replies_end)
            os.close(life_end)
            self._drive = _drive_of(sandbox, self._process.pid)
            self._monitor = KernelMonitor(
                self._process.pid, self._drive, self._process.pid
            )
            try:
                self._check_isolation()
                self._monitor.stop()
                self._monitor.usage(
                    limits.files
                )  # raises OSError where it cannot be counted
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
        """Run a cell; one at a time. After a result with `ended`, no other can run.

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
        """End the process and free its resources."""
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

    # Start

    def _check_isolation(self) -> None:
        """Read the first replies, which say whether the process is isolated."""
        first = self._first_reply()
        reply = self._first_reply() if "pid" in first else first
        if "refused" in reply:
            raise ToolError(_isolation_error(reply["refused"]))
        if reply["leaks"]:
            raise ToolError(
                "the `python` tool is not isolated here, its code could "
                f"{' and '.join(reply['leaks'])}: leave the tool out"
            )
        if "pid" in first:  # the kernel's: the process that was started is its guard
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
        written = [line.strip() for line in lines if line.strip()]
        return written[-1] if written else "the process ended at once"

    # Cells

    def _run(self, code: str, interrupted: threading.Event) -> str:
        """Run a cell, then stop the process; return notes for the model."""
        token = secrets.token_hex(8)  # unknown to code that forges replies
        self._connection.queue({"code": code, "token": token})
        self._monitor.resume()
        reply, note = self._wait_for_cell(interrupted)
        if reply.get("done") != token:
            raise KernelGone(BROKEN_CONNECTION)
        is_idle = not reply.get("stubborn") and self._monitor.wait_until_idle()
        self._monitor.stop()
        self._connection.drain(self._output.add)
        self._check_limits()
        if not is_idle:
            raise KernelGone(THREAD_LEFT_RUNNING)
        return note + _thread_note(reply.get("interrupted"))

    def _wait_for_cell(
        self, interrupted: threading.Event
    ) -> tuple[dict[str, Any], str]:
        """Wait for the end of a cell; return the reply and a note for the model."""
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

        def keep_waiting() -> bool:
            self._check_limits()
            return not interrupted.is_set()

        end = monotonic() + seconds
        return self._connection.wait_for_reply(self._output.add, keep_waiting, end)

    def _check_limits(self) -> None:
        """Raise KernelGone if the code has exceeded a limit."""
        try:
            usage = self._monitor.usage(self.limits.files)
        except PROCESS_ENDED:
            return  # its pipes end as well
        except OSError as error:
            raise KernelGone(f"its files can no longer be counted ({error})") from error
        if reason := exceeded_limit(usage, self.limits):
            raise KernelGone(reason)


def _drive_of(sandbox: Sandbox, guard: int) -> Drive:
    """Return the drive as seen from here: in memory, it is in the guard's root only."""
    if sandbox.in_memory:
        return Drive(f"/proc/{guard}/root{sandbox.drive}", in_memory=True)
    return Drive(sandbox.drive, in_memory=False)


def _thread_note(threads: int | None) -> str:
    """Return a note about the threads that were ended with the cell, if any."""
    if not threads:
        return ""
    were = "1 thread was" if threads == 1 else f"{threads} threads were"
    return (
        f"[{were} still running after the cell and asked to end: code runs in cells "
        "only; the variables are kept]\n"
    )


def _over_time(seconds: float) -> str:
    return f"the code ran longer than {seconds:g} s and was stopped"


def _isolation_error(why: str) -> str:
    return (
        f"the `python` tool cannot be isolated here ({why}): leave it out, or, on "
        "Linux, let users make namespaces (`sysctl kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0`)"
    )


def _listener() -> socket.socket:
    """Listen on a local port, which the sandbox must not be able to reach."""
    return socket.create_server(("127.0.0.1", 0))
