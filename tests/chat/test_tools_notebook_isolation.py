"""No code leaves the notebook's sandbox, and without one it does not start."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_gptoss.chat.tools.notebook import (
    Notebook,
    NotebookLimits,
    child_seccomp,
    macos_profile,
)
from mlx_gptoss.chat.tools.notebook.kernel_process import KernelProcess
from mlx_gptoss.chat.tools.notebook.sandbox import (
    GUARD,
    KERNEL,
    LINUX_LAUNCHER,
    Sandbox,
    isolate,
    readable_folders,
)
from mlx_gptoss.errors import ToolError
from tests.support.notebooks import MB, SMALL, kernel_of, open_notebook

GOLDEN = Path(__file__).parents[1] / "golden"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with open_notebook(NotebookLimits(memory=512 * MB, drive_bytes=8 * MB)) as found:
        yield found


@pytest.fixture
def small() -> Iterator[Notebook]:
    with open_notebook(SMALL) as found:
        yield found


# Nothing gets out

OUTSIDE = Path(__file__).resolve()
ESCAPES = {
    "socket": "import socket; socket.socket().connect(('127.0.0.1', 9))",
    "socket by ctypes": "assert libc.connect(libc.socket(2, 1, 0), "
    "b'\\2\\0\\0\\x35\\x7f\\0\\0\\1' + bytes(8), 16) == 0",
    "resolve a name": "import socket; socket.getaddrinfo('example.com', 80)",
    "read a file": f"open({str(OUTSIDE)!r})",
    "read by ctypes": f"assert libc.open({os.fsencode(OUTSIDE)!r}, 0) >= 0",
    "list the home": f"import os; os.listdir({str(OUTSIDE.parent)!r})",
    "climb out": f"open('../../../../../..' + {str(OUTSIDE)!r})",
    "link out": f"import os; os.symlink({str(OUTSIDE)!r}, 'link'); open('link')",
    "write outside": "open('/tmp/x', 'w')",
    "change Python": "import json; open(json.__file__, 'a')",
    "fork": "import os; os.fork()",
    "fork by ctypes": "assert libc.fork() >= 0",
    "start a program": "import subprocess, sys; subprocess.run([sys.executable])",
    "become a program": "import os; os.execv('/bin/sh', ['sh'])",
}
LINUX_ESCAPES = {
    "make a namespace": "assert libc.unshare(0x10000000) == 0",
    "join a namespace": "assert libc.setns(0, 0) == 0",
    "mount": "assert libc.mount(b'x', b'/mnt', b'tmpfs', 0, b'') == 0",
    "clone by number": "assert libc.syscall({'x86_64': 56}.get(M, 220), 17, 0) >= 0",
    "io_uring": "assert libc.syscall(425, 1, bytes(120)) >= 0",
    "see processes": "open('/proc/1/environ')",
    "see disks": "open('/dev/vda')",
    "devices of its own": "import os, stat; os.mknod('d', stat.S_IFBLK | 0o600, 1)",
}
SETUP = "import ctypes, os; libc = ctypes.CDLL(None); M = os.uname().machine"


@pytest.mark.parametrize("name", [*ESCAPES, *LINUX_ESCAPES])
def test_there_is_no_way_out(notebook: Notebook, name: str) -> None:
    if name in LINUX_ESCAPES and sys.platform != "linux":
        pytest.skip("a way out that only Linux has")
    notebook.run(SETUP)
    said = notebook.run((ESCAPES | LINUX_ESCAPES)[name])
    last = said.splitlines()[-1]
    expected = ("PermissionError", "FileNotFoundError", "AssertionError", "OSError")
    assert last.startswith((*expected, "socket.gaierror")), said


def test_the_environment_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    with open_notebook(SMALL) as own:
        assert own.run("import os; 'hunter2' in str(os.environ)") == "False\n"


@linux_only
def test_no_privilege_and_no_other_process_is_left(notebook: Notebook) -> None:
    assert notebook.run("import os; os.getuid(), os.getpid()") == "(1000, 1)\n"
    said = notebook.run("os.kill(-1, 9)")  # all processes it can see, except itself
    assert said.splitlines()[-1].startswith(("ProcessLookupError", "[There was"))


# The process ends when it should


def test_closing_ends_the_process() -> None:
    with open_notebook(SMALL) as own:
        kernel = kernel_of(own)
    kernel.wait(10)


# Without isolation it does not start


def test_a_sandbox_that_lets_everything_through_is_found_out(tmp_path: Path) -> None:
    """The probes of the kernel decide, whatever the sandbox claims."""
    python = (sys.executable, "-I", "-B", str(KERNEL))
    with pytest.raises(ToolError) as caught:
        KernelProcess(Sandbox(str(tmp_path), python), SMALL)
    assert str(caught.value) == (
        "the `python` tool is not isolated here, its code could read a file of the "
        "user and write where the user can and open a network connection and start a "
        "process and keep memory outside its process: leave the tool out"
    )


NO_NAMESPACES = f"""
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
runpy.run_path({child_seccomp.__file__!r})["filter_calls"]()
sys.argv = [{str(LINUX_LAUNCHER)!r}, sys.argv[1]]
runpy.run_path({str(LINUX_LAUNCHER)!r}, run_name="__main__")
"""


@linux_only
def test_a_system_that_refuses_namespaces_is_an_error() -> None:
    found = isolate(SMALL, "linux")
    start = Sandbox(found.drive, (sys.executable, "-c", NO_NAMESPACES), found.settings)
    with pytest.raises(ToolError, match=r"cannot be isolated here \(unshare: Op"):
        KernelProcess(start, SMALL)


@linux_only
def test_a_root_that_cannot_be_built_says_why(small: Notebook) -> None:
    with pytest.raises(ToolError, match=r"mount /mnt/data: Invalid argument"):
        Notebook(replace(SMALL, files=-9))


def test_a_sandbox_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    start = Sandbox(
        str(tmp_path), (sys.executable, "-c", "raise SystemExit('no luck')")
    )
    with pytest.raises(ToolError, match=r"cannot be isolated here \(no luck\)"):
        KernelProcess(start, SMALL)


def test_another_system_is_refused() -> None:
    with pytest.raises(ToolError, match="isolation, which `win32` does not have"):
        isolate(NotebookLimits(), "win32")


def test_a_python_around_the_users_home_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", os.path.join(sys.base_prefix, "me"))
    with pytest.raises(ToolError, match=r"would let code read `.*/me`"):
        readable_folders(())


def test_the_profile_for_a_mac_is_as_reviewed() -> None:
    text = macos_profile.sandbox_profile(
        ["/opt/python", '/Users/a "b"/.venv'], "/private/tmp/drive"
    )
    golden = GOLDEN / "macos-sandbox.sb"
    if os.environ.get("MLX_GPTOSS_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_mac_starts_python_in_its_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    start = isolate(SMALL, "darwin")
    assert os.listdir(start.drive) == [] and Path(start.drive).parent == tmp_path
    *guarded, settings = start.command({"replies": 3})
    assert guarded[0] == sys.executable and guarded[-1] == str(GUARD)
    given = json.loads(settings)
    command = given["command"]
    assert command[:2] == ["/usr/bin/sandbox-exec", "-p"]
    assert f'(allow file-read* file-write*\n  (subpath "{start.drive}"))' in command[2]
    assert command[3] == sys.executable and command[-1] == str(KERNEL)
    assert (given["replies"], given["drive_bytes"]) == (3, SMALL.drive_bytes)
    assert given["drive"] == start.drive
