"""The python tool: a notebook that keeps its names, and nothing of it gets out.

Where the system lets nobody make namespaces, the tests of a running notebook are
skipped with its reason; that it refuses to start there is tested everywhere.
"""

import json
import os
import struct
import sys
import threading
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
from mlx_gptoss.chat.tools.notebook.cell_output import MAX_OUTPUT_BYTES
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
from mlx_gptoss.harmony.built_in_tools import PYTHON
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


# A notebook


def test_cells_share_their_names(notebook: Notebook) -> None:
    assert notebook.run("x = 20\ndef double(n): return 2 * n").startswith("[There was")
    assert notebook.run("double(x) + 2") == "42\n"
    assert notebook.run("_ + 1") == "43\n"


def test_what_is_printed_and_the_last_value_are_shown(notebook: Notebook) -> None:
    code = "import sys\nprint('á')\nprint('b', file=sys.stderr)\n{'c': 1}"
    assert notebook.run(code) == "á\nb\n{'c': 1}\n"


def test_output_below_python_is_shown_too(notebook: Notebook) -> None:
    assert notebook.run("import os; os.write(1, b'low\\n')") == "low\n4\n"


def test_a_traceback_begins_in_the_cell(notebook: Notebook) -> None:
    text = notebook.run("def f():\n    return 1 / 0\nf()")
    lines = text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith(", line 3, in <module>") and "<cell" in lines[1]
    assert "    return 1 / 0" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("def", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("input()", "EOFError: EOF when reading a line"),
        ("class E(Exception):\n  def __str__(self): 1 / 0\nraise E", "ZeroDiv"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("'\\0'.join([])", "''"),
        ("\0", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_no_cell_ends_the_notebook(notebook: Notebook, code: str, last: str) -> None:
    notebook.run("kept = 'here'")
    said = notebook.run(code)
    assert last in said.splitlines()[-1] or "E: <exception str() failed>" in said
    assert notebook.run("kept") == "'here'\n"


def test_a_cell_may_wait_at_its_top(notebook: Notebook) -> None:
    assert notebook.run("import asyncio\nawait asyncio.sleep(0, 'done')") == "'done'\n"


def test_libraries_of_this_python_are_there(notebook: Notebook) -> None:
    assert notebook.run("import numpy; int(numpy.arange(5).sum())") == "10\n"


def test_endless_output_keeps_its_two_ends(notebook: Notebook) -> None:
    text = notebook.run("print('first')\nprint('y' * 1_000_000)\nprint('last')")
    assert text.startswith("first\nyyy") and text.endswith("yyy\nlast\n")
    assert "bytes left out" in text
    assert len(text) < MAX_OUTPUT_BYTES + 100


def test_files_are_kept_in_a_folder_of_their_own(notebook: Notebook) -> None:
    notebook.run("import os; open('a.txt', 'w').write('hello')")
    drive = notebook._sandbox.drive
    assert notebook.run(f"open({drive + '/a.txt'!r}).read()") == "'hello'\n"
    assert notebook.run("os.getcwd()") == f"{drive!r}\n"


def test_a_reset_forgets_names_and_files(small: Notebook) -> None:
    small.run("x = 1; open('a.txt', 'w').write('hello')")
    small.reset()
    assert "NameError" in small.run("x")
    assert "FileNotFoundError" in small.run("open('a.txt')")


def test_the_model_is_told_what_is_true(notebook: Notebook) -> None:
    [tool] = notebook.tools
    assert (tool.name, tool.recipient) == ("python", "python")
    assert tool.namespace is not None and PYTHON.description is not None
    told = tool.namespace.description or ""
    assert "time out after 120.0 seconds" in told
    assert f"The drive at '{notebook._sandbox.drive}' can" in told
    assert "Internet access for this session is disabled" in told
    assert told.startswith(PYTHON.description[:300])
    assert tool.run("'raw code, no JSON'") == "'raw code, no JSON'\n"


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
    said = notebook.run("os.kill(-1, 9)")  # everybody it can see, but itself
    assert said.splitlines()[-1].startswith(("ProcessLookupError", "[There was"))


# Limits


def test_an_endless_loop_is_stopped_and_the_names_stay(small: Notebook) -> None:
    small.run("x = 5")
    said = small.run("print('begun')\nwhile True: pass")
    assert said.startswith("begun\nTraceback")
    assert said.endswith(
        "KeyboardInterrupt\n[the code ran longer than 1 s and was stopped; the "
        "variables are kept]\n"
    )
    assert small.run("x") == "5\n"


def test_code_that_will_not_stop_is_killed(small: Notebook) -> None:
    kernel = kernel_of(small)
    stubborn = (
        "import signal, time; signal.signal(2, signal.SIG_IGN)\n"
        "while True: time.sleep(1)"
    )
    said = small.run("x = 5\n" + stubborn)
    assert said == (
        "[the code ran longer than 1 s and was stopped; the notebook was restarted, "
        "its variables and files are gone]\n"
    )
    kernel.wait(10)
    assert "NameError" in small.run("x")


@pytest.mark.parametrize(
    "hog",
    [
        "hog = []\nwhile True: hog.append(bytearray(1 << 24))",
        "import mmap\nhog = mmap.mmap(-1, 1 << 28, flags=mmap.MAP_PRIVATE)\n"
        "while True: hog.write(bytes(1 << 20))",
    ],
    ids=["of Python", "mapped"],
)
def test_memory_is_limited(hog: str) -> None:
    with open_notebook(NotebookLimits(memory=96 * MB, drive_bytes=8 * MB)) as own:
        said = own.run(hog)
        refused = ("MemoryError", "OSError: [Errno 12] Cannot allocate memory")
        ended = "[the code took more than 101 MB of memory; the notebook was restarted"
        assert said.splitlines()[-1].startswith((*refused, ended))
        assert own.run("1 + 1") == "2\n"


def test_a_fork_bomb_does_not_start(small: Notebook) -> None:
    said = small.run("import os\nwhile True: os.fork()")
    assert said.splitlines()[-1].startswith("PermissionError")


def test_files_are_limited(small: Notebook) -> None:
    said = small.run("open('big', 'wb').write(bytes(1 << 24))")
    assert said.splitlines()[-1].startswith("OSError")


def test_a_process_that_ends_itself_is_replaced(small: Notebook) -> None:
    said = small.run("print('bye', flush=True)\nimport os; os._exit(1)")
    assert said.startswith("bye\n[the process ended; the notebook was restarted")
    assert small.run("1 + 1") == "2\n"


def test_a_process_that_is_killed_between_cells_is_replaced(small: Notebook) -> None:
    kernel_of(small).kill()
    assert "ended; the notebook was restarted" in small.run("1 + 1")
    assert small.run("1 + 1") == "2\n"


@pytest.mark.parametrize("reply", ["not JSON", '{"done": true}', "[]", "[" * 5000])
def test_a_reply_made_up_by_the_code_harms_nobody(small: Notebook, reply: str) -> None:
    forge = f"import os\nfor n in range(3, 256):\n try: os.write(n, b'{reply}\\n')\n"
    said = small.run(forge + " except OSError: pass")
    assert "the process broke its connection" in said
    assert small.run("1 + 1") == "2\n"


def test_a_cell_can_be_interrupted(notebook: Notebook) -> None:
    [tool] = notebook.tools
    given_up = iter([False])
    said = tool.run("while True: pass", cancelled=lambda: next(given_up, True))
    assert said == "Error: the call was interrupted"
    assert notebook.run("1 + 1") == "2\n"  # waits for the end of the other cell


def test_a_cell_that_waits_for_its_process_can_be_interrupted(
    notebook: Notebook,
) -> None:
    """While it is started anew, and while another cell runs."""
    answers: list[str] = []
    notebook.run("kept = 'here'")
    with notebook._lock:
        cell = threading.Thread(
            target=lambda: answers.append(notebook.run("kept = 'gone'"))
        )
        cell.start()
        while not notebook._calls:
            assert cell.is_alive()
        notebook.interrupt()
    cell.join()
    assert answers == ["[it was stopped before it began]\n"]
    assert notebook.run("kept") == "'here'\n"


# The process ends when it should


def test_closing_ends_the_process() -> None:
    with open_notebook(SMALL) as own:
        kernel = kernel_of(own)
    kernel.wait(10)


# Without isolation it does not start


def test_a_sandbox_that_lets_everything_through_is_found_out(tmp_path: Path) -> None:
    """What the kernel tries at its start is what tells, whatever the system said."""
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


# The filter of system calls, on a machine made of Python


def allowed(machine: str, number: int, *arguments: int) -> bool:
    """Run the filter on one call, as the kernel would (classic BPF)."""
    call = struct.pack(
        "IIQ6Q",
        number,
        child_seccomp.ARCHITECTURES[machine],
        0,
        *[*arguments, 0, 0, 0, 0, 0, 0][:6],
    )
    program, at, value = child_seccomp.program(machine), 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == child_seccomp.LOAD:
            [value] = struct.unpack_from("I", call, operand)
        elif code == child_seccomp.RETURN:
            return operand == child_seccomp.ALLOW
        else:
            tests = {
                child_seccomp.EQUAL: value == operand,
                child_seccomp.AT_LEAST: value >= operand,
                child_seccomp.ANY_BIT: bool(value & operand),
            }
            at += if_true if tests[code] else if_false


@pytest.mark.parametrize("machine", sorted(child_seccomp.ARCHITECTURES))
def test_the_filter_stops_what_it_names_and_nothing_else(machine: str) -> None:
    clone = child_seccomp.CLONE[machine]
    refused = {
        *child_seccomp.REFUSED[machine].values(),
        *child_seccomp.REFUSED_EVERYWHERE.values(),
        child_seccomp.CLONE3,
        clone,
    }
    assert {n for n in range(600) if not allowed(machine, n)} == refused
    assert allowed(machine, clone, child_seccomp.CLONE_THREAD | 0x100)
    assert not allowed(machine, clone, 17)
    assert not allowed(machine, child_seccomp.X32 + 1)


@pytest.mark.parametrize("machine", sorted(child_seccomp.ARCHITECTURES))
def test_the_filter_looks_at_arguments(machine: str) -> None:
    mmap, high = child_seccomp.MMAP[machine], 1 << 32
    private, shared, anonymous, checked = 0x02, 0x01, 0x20, 0x03
    for flags in (private | anonymous, private, shared, 0x4000 | private | anonymous):
        assert allowed(machine, mmap, 0, 0, 0, flags)
    for flags in (shared | anonymous, checked | anonymous, high | shared | anonymous):
        assert not allowed(machine, mmap, 0, 0, 0, flags)
    refused = {10, 37, 38, 1031}
    fcntl, prctl = child_seccomp.FCNTL[machine], child_seccomp.PRCTL[machine]
    assert {n for n in range(1100) if not allowed(machine, fcntl, 0, n)} == refused
    assert {n for n in range(100) if not allowed(machine, prctl, n)} == {1, 22}
