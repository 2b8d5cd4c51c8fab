"""Build the command that starts Python in a sandbox of the operating system.

    sandbox = isolate(NotebookLimits())        # raises ToolError if it is not possible
    subprocess.Popen(sandbox.command(settings), env=sandbox.environment, ...)

macOS: `sandbox-exec` with the profile of macos_profile.py. Linux: namespaces, created
by child_linux.py. Either way a guard (child_guard.py) ends the kernel with us. The
kernel tests at its start what the sandbox really permits (child_kernel.py).
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlx_gptoss.chat.tools.notebook import macos_profile
from mlx_gptoss.errors import ToolError

FOLDER = Path(__file__).parent
KERNEL = FOLDER / "child_kernel.py"
CELL_THREADS = FOLDER / "child_threads.py"  # loaded by the kernel
GUARD = FOLDER / "child_guard.py"
LINUX_LAUNCHER = FOLDER / "child_linux.py"
LINUX_DRIVE = "/mnt/data"  # the folder for files in training
LINUX_LIBRARIES = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
BLAS_THREADS = 4  # of a numerical library: each needs memory


@dataclass(frozen=True)
class NotebookLimits:
    """Limits of the code in a notebook: bytes, seconds per cell, number of files.

    `memory` includes files where the drive is in memory (Linux); `files` includes
    folders and links.
    """

    memory: int = 1 << 30
    drive_bytes: int = 256 << 20
    seconds: float = 120.0
    files: int = 10_000


@dataclass(frozen=True)
class Sandbox:
    """The command that starts an isolated kernel, and its folder for files (`drive`).

    The caller removes a drive that is not in memory.
    """

    drive: str
    prefix: tuple[str, ...]  # of the command line
    settings: Mapping[str, Any] = field(default_factory=dict)
    in_memory: bool = False  # a file system that only the kernel sees

    def command(self, given: Mapping[str, Any]) -> list[str]:
        """Return the command line; `given` adds settings such as descriptors."""
        return [*self.prefix, json.dumps({**self.settings, **given})]

    @property
    def environment(self) -> dict[str, str]:
        """Without the user's environment variables, which may hold keys."""
        threads = {
            f"{name}_NUM_THREADS": str(BLAS_THREADS) for name in ("OMP", "OPENBLAS")
        }
        return threads | {
            "HOME": self.drive,
            "TMPDIR": self.drive,
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "MPLBACKEND": "Agg",
            "MPLCONFIGDIR": self.drive,
        }


def isolate(limits: NotebookLimits, platform: str = sys.platform) -> Sandbox:
    """Build the sandbox of this system; raises ToolError where there is none."""
    python = (sys.executable, "-I", "-B", "-X", "utf8")
    if platform == "linux":
        settings = {
            "readable": readable_folders(LINUX_LIBRARIES),
            "drive": LINUX_DRIVE,
            **asdict(limits),
        }
        return Sandbox(
            LINUX_DRIVE, (*python, str(LINUX_LAUNCHER)), settings, in_memory=True
        )
    if platform == "darwin":
        own = (str(KERNEL.resolve()), str(CELL_THREADS.resolve()))
        readable = readable_folders(own)
        drive = os.path.realpath(tempfile.mkdtemp(prefix="mlx-gptoss-python-"))
        profile = macos_profile.sandbox_profile(readable, drive)
        command = (macos_profile.COMMAND, "-p", profile, *python, str(KERNEL))
        settings = {"command": command, "drive": drive, **asdict(limits)}
        return Sandbox(drive, (*python, str(GUARD)), settings)
    raise ToolError(
        f"the `python` tool needs isolation, which `{platform}` does not have: "
        "leave the tool out"
    )


def readable_folders(system: tuple[str, ...]) -> list[str]:
    """Return the folders of this Python and of `system`, as named and resolved.

    Raises ToolError if they contain the user's home folder.
    """
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    home = Path(os.path.expanduser("~")).resolve()
    for prefix in prefixes:
        if home.is_relative_to(Path(prefix).resolve()):
            raise ToolError(
                f"the `python` tool would let code read `{home}`, where this Python "
                f"is installed (`{prefix}`): use a virtual environment elsewhere"
            )
    named = [path for path in (*prefixes, *system) if os.path.exists(path)]
    resolved = [os.path.realpath(path) for path in named]
    folders = sorted({*map(os.path.abspath, named), *resolved})
    return [one for one in folders if not _is_inside_another(one, folders)]


def _is_inside_another(path: str, folders: list[str]) -> bool:
    return any(path != one and Path(path).is_relative_to(one) for one in folders)
