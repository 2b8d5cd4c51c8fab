"""How Python is started so that the operating system shuts it in.

    start = isolate(Limits())                  # raises ToolError where it cannot be
    subprocess.Popen(start.command(given), env=start.environment, ...)

macOS: `sandbox-exec` with the profile of macos.py. Linux: namespaces, made by
child_linux.py. Either way a guard (child_guard.py) ends the kernel with us. What a
sandbox really lets through is tried by the kernel when it starts (child_kernel.py);
nothing here is taken on trust.
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
CELL_THREADS = FOLDER / "child_threads.py"  # which the kernel loads
GUARD = FOLDER / "child_guard.py"
LINUX_LAUNCHER = FOLDER / "child_linux.py"
LINUX_DRIVE = "/mnt/data"  # where the model was trained to keep its files
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
BLAS_THREADS = 4  # of a numerical library: each takes memory


@dataclass(frozen=True)
class NotebookLimits:
    """What the code may use.

    `memory` counts files too where the drive is in memory (Linux); `files` counts
    folders and links as well; `seconds` are those of a cell.
    """

    memory: int = 1 << 30
    drive_bytes: int = 256 << 20
    seconds: float = 120.0
    files: int = 10_000


@dataclass(frozen=True)
class Sandbox:
    """The command that starts a shut-in kernel, and its folder for files.

    A folder that is not in memory is the caller's to remove.
    """

    drive: str
    prefix: tuple[str, ...]  # of the command line
    settings: Mapping[str, Any] = field(default_factory=dict)
    in_memory: bool = False  # the drive is a file system that only the kernel sees

    def command(self, given: Mapping[str, Any]) -> list[str]:
        """The command line; `given` is what only the caller knows (descriptors)."""
        return [*self.prefix, json.dumps({**self.settings, **given})]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the user's environment: it may hold keys."""
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
    """Choose the isolation of this system; raises ToolError where there is none."""
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
        f"the `python` tool needs isolation, which is not there for `{platform}`: "
        "leave the tool out"
    )


def readable_folders(system: tuple[str, ...]) -> list[str]:
    """The folders of this Python and of `system`, as named and with links resolved.

    Raises ToolError if the user's own files lie in them.
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
