"""The built-in `python` tool: a notebook in a sandbox of the operating system.

    with Notebook() as notebook:
        chat = Chat(runtime, tools=[notebook])

The model's code runs in a process of its own (the kernel), one cell after another in
one namespace: no network, no files but an empty folder and Python's own, no other
process; memory, time and files are limited. Where that is not possible, `Notebook`
raises ToolError. A Notebook belongs to one Chat.

Code runs in cells only: between cells the kernel is stopped. A thread that outlives its
cell is asked to end; if it does not, the notebook is restarted and the model is told.
On Linux the operating system enforces the limits; macOS's sandbox cannot, so there they
are monitored from outside (macos_profile.py).

sandbox.py            the command that starts a kernel; macos_profile.py: for a Mac
kernel_process.py     the kernel process: cells in, text out, within limits
kernel_connection.py  its pipes; cell_output.py: the ends of a long output
kernel_limits.py      check its resources; kernel_monitor.py: measure, stop, resume
child_kernel.py       runs in the process; child_threads.py ends threads of a cell
child_linux.py        isolates it, with child_seccomp.py; child_guard.py ends it
"""

import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from mlx_gptoss.chat.tools.notebook.kernel_process import KernelProcess
from mlx_gptoss.chat.tools.notebook.sandbox import NotebookLimits, isolate
from mlx_gptoss.chat.tools.tool import Tool
from mlx_gptoss.harmony.built_in_tools import PYTHON
from mlx_gptoss.harmony.messages import ToolDescription, ToolNamespace

__all__ = ["Notebook", "NotebookLimits"]

NO_OUTPUT = "[There was no output: print what you want to see.]"
RESTARTED = "the notebook was restarted, its variables and files are gone"
# Parts of the description in training that are not true of this notebook.
TRAINED_SECONDS = "120.0 seconds"
TRAINED_DRIVE = "'/mnt/data'"
TRAINED_NETWORK = "Internet access for this session is UNKNOWN. Depends on the cluster."
NETWORK = (
    "Internet access for this session is disabled. Do not make external web requests "
    "or API calls as they will fail."
)


class Notebook:
    """The `python` tool: pass it to a Chat among its tools, and close it."""

    def __init__(self, limits: NotebookLimits | None = None) -> None:
        """Start the kernel; raises ToolError if it cannot be isolated."""
        self.limits = limits or NotebookLimits()
        self._lock = threading.Lock()
        self._calls: set[threading.Event] = set()  # set to end the call
        self._process: KernelProcess | None = None
        self._sandbox = isolate(self.limits)
        self._process = self._start_process()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def tools(self) -> Sequence[Tool]:
        """The `python` tool."""
        tool = Tool(
            ToolDescription("python"),
            self.run,
            python_namespace(self.limits, self._sandbox.drive),
            takes_text=True,
            limits_itself=True,
            interrupt=self.interrupt,
        )
        return [tool]

    def run(self, code: str) -> str:
        """Run a cell and return its output; raises ToolError if no kernel can start."""
        interrupted = threading.Event()
        self._calls.add(interrupted)
        try:
            with self._lock:
                return self._run(code, interrupted)
        finally:
            self._calls.discard(interrupted)

    def _run(self, code: str, interrupted: threading.Event) -> str:
        if self._process is None:
            self._sandbox = isolate(self.limits)
            self._process = self._start_process()
        result = self._process.run(code, interrupted)
        if not result.ended:
            return result.text or NO_OUTPUT
        self._discard()
        return f"{result.text}[{result.ended}; {RESTARTED}]\n"

    def interrupt(self) -> None:
        """End the running cell and those that wait for it; from any thread."""
        for interrupted in tuple(self._calls):
            interrupted.set()

    def reset(self) -> None:
        """Discard variables and files; the next cell starts a new kernel."""
        self.interrupt()
        with self._lock:
            self._discard()

    def close(self) -> None:
        """End the kernel and remove its files."""
        self.reset()

    def _start_process(self) -> KernelProcess:
        try:
            return KernelProcess(self._sandbox, self.limits)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
        if not self._sandbox.in_memory:
            shutil.rmtree(self._sandbox.drive, ignore_errors=True)


def python_namespace(limits: NotebookLimits, drive: str) -> ToolNamespace:
    """Return the description from training, corrected for this notebook."""
    text = PYTHON.description or ""
    for trained, true in (
        (TRAINED_SECONDS, f"{limits.seconds} seconds"),
        (TRAINED_DRIVE, f"'{drive}'"),
        (TRAINED_NETWORK, NETWORK),
    ):
        assert trained in text
        text = text.replace(trained, true)
    return replace(PYTHON, description=text)
