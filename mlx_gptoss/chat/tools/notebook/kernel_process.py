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

from mlx_gptoss.chat.tools.notebook.cell_output import Output
from mlx_gptoss.chat.tools.notebook.kernel_connection import BROKEN, Conversation, Gone
from mlx_gptoss.chat.tools.notebook.kernel_monitor import MOST_LOCKS, Drive, Use, Watch
from mlx_gptoss.chat.tools.notebook.sandbox import Limits, Start
from mlx_gptoss.errors import ToolError
from mlx_gptoss.memory import format_bytes

START_SECONDS = 30.0
GRACE_SECONDS = 2.0  # for code to end after an interrupt, before it is killed
END_SECONDS = 5.0  # for the guard to see the end of the process
MOST_THREADS = 512  # each takes memory of the system that no other limit counts
LEFT_RUNNING = (
    "a thread was still running after the cell and would not end: wait for threads "
    "(`join`, `with`) before a cell ends"
)
HAS_ENDED = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Result:
    """What a cell wrote; `ended` says why the process is gone, if it is."""

    text: str
    ended: str = ""


class Process:
    """One kernel, from its start until it ends or is closed."""

    def __init__(self, start: Start, limits: Limits) -> None:
        """Start the kernel; raises ToolError if it is not isolated."""
        self.limits = limits
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
            self._pipes = Conversation(self._process, replies)
            os.close(replies_end)
            os.close(life_end)
            self._drive = _drive(start, self._process.pid)
            self._watch = Watch(self._process.pid, self._drive, self._process.pid)
            try:
                self._check_isolation()
                self._watch.stop()
                self._watch.use(limits.files)  # can it be counted at all?
                self._check_use()
            except (Gone, *HAS_ENDED) as gone:
                self.close()
                raise ToolError(_refused(str(gone))) from gone
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

    def run(self, code: str, interrupted: threading.Event) -> Result:
        """Run a cell; one at a time. A Result with `ended` is the last one.

        The cell ends early once `interrupted` is set.
        """
        if interrupted.is_set():
            return Result("[it was stopped before it began]\n")
        self._output = Output()
        try:
            notes = self._run(code, interrupted)
        except Gone as gone:
            self.close()
            return Result(self._output.text, str(gone))
        except HAS_ENDED:
            self.close()
            return Result(self._output.text, "the process ended")
        return Result(self._output.text + notes)

    def close(self) -> None:
        """End the process and all it holds."""
        self._watch.kill()
        if self._life >= 0:
            os.close(self._life)  # the guard ends
            self._life = -1
        self._pipes.close()
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
            raise ToolError(_refused(reply["refused"]))
        if reply["leaks"]:
            raise ToolError(
                "the `python` tool is not isolated here, its code could "
                f"{' and '.join(reply['leaks'])}: leave the tool out"
            )
        if "pid" in first:  # of the kernel: the process we have started guards it
            self._watch = Watch(first["pid"], self._drive, self._process.pid)

    def _first_reply(self) -> dict[str, Any]:
        end = monotonic() + START_SECONDS
        try:
            reply = self._pipes.reply(self._output.add, lambda: True, end)
        except Gone as gone:
            raise ToolError(_refused(self._last_words())) from gone
        if reply is None:
            raise ToolError(_refused(f"no answer within {START_SECONDS:g} s"))
        return reply

    def _last_words(self) -> str:
        lines = self._output.text.split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else "the process ended at once"

    # A cell

    def _run(self, code: str, interrupted: threading.Event) -> str:
        """Run a cell and stop the process; return what to say of its end."""
        token = secrets.token_hex(8)  # code that makes up a reply does not know it
        self._pipes.say({"code": code, "token": token})
        self._watch.go_on()
        reply, note = self._wait_for_cell(interrupted)
        if reply.get("done") != token:
            raise Gone(BROKEN)
        rests = not reply.get("stubborn") and self._watch.at_rest()
        self._watch.stop()
        self._pipes.drain(self._output.add)
        self._check_use()
        if not rests:
            raise Gone(LEFT_RUNNING)
        return note + _told(reply.get("told"))

    def _wait_for_cell(
        self, interrupted: threading.Event
    ) -> tuple[dict[str, Any], str]:
        """Wait for the end of a cell; return the reply and what to say about it."""
        limit = self.limits.seconds
        if (reply := self._reply(limit, interrupted)) is not None:
            return reply, ""
        why = "it was stopped" if interrupted.is_set() else _over(limit)
        self._watch.interrupt()
        if (reply := self._reply(GRACE_SECONDS, threading.Event())) is not None:
            return reply, f"[{why}; the variables are kept]\n"
        raise Gone(why)

    def _reply(
        self, seconds: float, interrupted: threading.Event
    ) -> dict[str, Any] | None:
        """Read output and the reply; None after `seconds`, or once interrupted."""

        def goes_on() -> bool:
            self._check_use()
            return not interrupted.is_set()

        end = monotonic() + seconds
        return self._pipes.reply(self._output.add, goes_on, end)

    def _check_use(self) -> None:
        """Raise Gone if the process has taken more than it may."""
        limits = self.limits
        try:
            use = self._watch.use(limits.files)
        except HAS_ENDED:
            return  # the end of its pipes tells
        except OSError as error:
            raise Gone(f"its files can no longer be counted ({error})") from error
        if use.memory > limits.memory:
            raise Gone(_over_memory(use, limits))
        if use.drive_bytes > limits.drive_bytes:
            most = format_bytes(limits.drive_bytes)
            raise Gone(f"the code kept more than {most} in files")
        if use.files > limits.files:
            raise Gone(f"the code kept more than {limits.files} files and folders")
        if use.threads > MOST_THREADS:
            raise Gone(f"the code started more than {MOST_THREADS} threads")
        if use.locks > MOST_LOCKS:
            raise Gone(f"the code held more than {MOST_LOCKS} locks on files")


def _drive(start: Start, guard: int) -> Drive:
    """The drive as we see it: one in memory is in the guard's root, and in no other."""
    if start.in_memory:
        return Drive(f"/proc/{guard}/root{start.drive}", in_memory=True)
    return Drive(start.drive, in_memory=False)


def _told(threads: int | None) -> str:
    """Say that threads of the cell were told to end, if any were."""
    if not threads:
        return ""
    were = "1 thread was" if threads == 1 else f"{threads} threads were"
    return (
        f"[{were} still running after the cell and told to end: only a cell runs "
        "code; the variables are kept]\n"
    )


def _over(seconds: float) -> str:
    return f"the code ran longer than {seconds:g} s and was stopped"


def _over_memory(use: Use, limits: Limits) -> str:
    in_files = format_bytes(use.memory_in_files)
    files = f", {in_files} of it in files" if use.memory_in_files else ""
    return f"the code took more than {format_bytes(limits.memory)} of memory{files}"


def _refused(why: str) -> str:
    return (
        f"the `python` tool cannot be isolated here ({why}): leave it out, or, on "
        "Linux, let users make namespaces (`sysctl kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0`)"
    )


def _listener() -> socket.socket:
    """A port of this machine that a connection would reach."""
    return socket.create_server(("127.0.0.1", 0))
