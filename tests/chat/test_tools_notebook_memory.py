"""A notebook stays within its limits of memory and files."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_gptoss.chat.tools.notebook import Notebook, NotebookLimits
from mlx_gptoss.chat.tools.notebook.kernel_monitor import (
    count_files,
    socket_buffer_bytes,
)
from tests.support.notebooks import MB, open_notebook

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="held by Linux itself")
GONE = "the notebook was restarted, its variables and files are gone]\n"


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    limits = NotebookLimits(memory=512 * MB, drive_bytes=8 * MB, files=50)
    with open_notebook(limits) as found:
        found.run("import ctypes, fcntl, mmap, os, resource\nr, w = os.pipe()")
        found.run("libc, M = ctypes.CDLL(None), os.uname().machine")
        yield found


# Memory that outlives its process, or that no count of the process shows.
HIDDEN = {
    "System V": "assert libc.shmget(0, 1 << 20, 0o1600) >= 0",
    "semaphores": "assert libc.semget(0, 1, 0o1600) >= 0",
    "message queue": "assert libc.msgget(0, 0o1600) >= 0",
    "POSIX message queue": "assert libc.syscall({'x86_64': 240}.get(M, 180), b'q', 66,"
    " 0o600, None) >= 0",
    "POSIX": "from multiprocessing import shared_memory\n"
    "shared_memory.SharedMemory(create=True, size=1 << 20)",
    "memory file": "os.memfd_create('m')",
    "secret memory": "assert libc.syscall(447, 0) >= 0",
    "shared mapping": "mmap.mmap(-1, 1 << 20)",
    "shared mapping, checked": "mmap.mmap(-1, 1 << 20, flags=0x23)",
    "zeroes": "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 20)",
    "large socket": "import socket\nmine, other = socket.socketpair()\n"
    "mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)",
    "locks without an owner": "fcntl.fcntl(w, 37, bytes(32))",
    "rules": "assert libc.syscall(444, bytes(16), 16, 0) >= 0",
    "filters": "assert libc.prctl(22, 2, bytes(16)) >= 0",
    "large pipe": "fcntl.fcntl(w, 1031, 1 << 20)",
    "events of files": "assert libc.inotify_init1(0) >= 0",
    "pages in a pipe": "assert libc.vmsplice(w, bytes(16), 0, 0) >= 0",
    "a higher limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
}
# Ways for a stopped process to go on, or to outlive its guard.
UNDYING = {
    "any signal by a timer": "timer = ctypes.c_int()\n"
    "assert libc.timer_create(1, None, ctypes.byref(timer)) >= 0",
    "any signal by a file": "fcntl.fcntl(r, 10, 18)",
    "no signal at its guard's end": "assert libc.prctl(1, 0, 0, 0, 0) >= 0",
}


@linux_only
@pytest.mark.parametrize("name", [*HIDDEN, *UNDYING])
def test_memory_that_no_limit_counts_is_refused(notebook: Notebook, name: str) -> None:
    said = notebook.run((HIDDEN | UNDYING)[name])
    refused = (
        "PermissionError",
        "FileNotFoundError",
        "AssertionError",
        "ValueError: not allowed to raise maximum limit",
    )
    assert said.splitlines()[-1].startswith(refused), said


def test_memory_of_its_own_and_files_in_memory_are_there(notebook: Notebook) -> None:
    own = "m = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    assert notebook.run(own + "m.write(b'abc'); m[:3]") == "b'abc'\n"
    file = "f = open('m', 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 0)\n"
    assert notebook.run(file + "m[:3] = b'abc'; m.flush(); f.read(3)") == "b'abc'\n"
    assert notebook.run("del m; f.close(); os.remove('m')").startswith("[There was")


@linux_only
@pytest.mark.parametrize(
    "make",
    [
        "open(name, 'x').close()",
        "os.mkdir(name)",
        "os.symlink('x', name)",
        "link(name)",
    ],
    ids=["files", "folders", "symlinks", "links"],
)
def test_files_are_counted(notebook: Notebook, make: str) -> None:
    notebook.run("open('a', 'w').close()\ndef link(name): os.link('a', name)")
    each = "for i in range(300):\n    name = f'{i}'; "
    assert "No space left on device" in notebook.run(each + make)
    assert (
        notebook.run("len(os.listdir()), len({*os.listdir()} - {'a'})") == "(50, 49)\n"
    )
    tidy = "for name in os.listdir():\n (os.rmdir if os.path.isdir(name) and not "
    assert notebook.run(tidy + "os.path.islink(name) else os.remove)(name)")
    assert notebook.run("os.listdir()") == "[]\n"


@linux_only
def test_memory_counts_the_files_that_are_in_it() -> None:
    with open_notebook(NotebookLimits(memory=96 * MB, drive_bytes=64 * MB)) as own:
        own.run("for i in range(48): open(str(i), 'wb').write(bytes(1 << 20))")
        said = own.run("kept = []\nfor i in range(50): kept.append(bytearray(1 << 20))")
        assert said.startswith("[the code took more than 101 MB of memory, ")
        assert said.endswith(f" MB of it in files; {GONE}")


PAGE_TABLES = """
import ctypes
libc, size = ctypes.CDLL(None), 1 << 42
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 4
start = libc.mmap(None, size, 1, 0x4022, -1, 0)  # to read only: limited by nothing
libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), 15)  # in small pages
for at in range(start, start + size, 1 << 21): ctypes.c_char.from_address(at).value
"""


@linux_only
def test_page_tables_are_memory_too() -> None:
    with open_notebook(NotebookLimits(memory=64 * MB, drive_bytes=MB)) as own:
        said = own.run(PAGE_TABLES)
        assert said == f"[the code took more than 67 MB of memory; {GONE}"


def test_threads_are_counted() -> None:
    code = (
        "import threading\nthreading.stack_size(1 << 15)\nend = threading.Event()\n"
        "for _ in range(5000): threading.Thread(target=end.wait, daemon=True).start()\n"
        "end.wait()"
    )
    with open_notebook(NotebookLimits(memory=256 * MB, drive_bytes=MB)) as own:
        assert own.run(code) == f"[the code started more than 512 threads; {GONE}"


SOCKETS = """
import socket
pairs = [socket.socketpair() for _ in range(100)]
for one in sum(pairs, ()):
    one.setblocking(False)
    try:
        while True: one.send(bytes(1 << 16))
    except BlockingIOError: continue
"""


@linux_only
def test_what_sockets_hold_is_memory_too() -> None:
    with open_notebook(NotebookLimits(memory=48 * MB, drive_bytes=MB)) as own:
        said = own.run("import asyncio\nawait asyncio.sleep(0, 'sockets work')")
        assert said == "'sockets work'\n"
        ended = f"[the code took more than 50 MB of memory; {GONE}"
        assert own.run(SOCKETS) == ended


@linux_only
def test_locks_on_files_are_counted() -> None:
    code = (
        "import fcntl\nfiles = [open(str(i), 'w') for i in range(20)]\n"
        "for file in files:\n  for at in range(0, 2000, 2):\n"
        "    fcntl.lockf(file, fcntl.LOCK_EX, 1, at)"
    )
    with open_notebook(NotebookLimits(memory=256 * MB, drive_bytes=MB)) as own:
        ended = f"[the code held more than 10000 locks on files; {GONE}"
        assert own.run(code) == ended


def test_a_socket_counts_in_a_container_too(tmp_path: Path) -> None:
    """A network namespace of its own hides the size of a buffer."""
    (tmp_path / "told").write_text("4096\n")
    assert socket_buffer_bytes(tmp_path / "told") == 4096
    assert socket_buffer_bytes(tmp_path / "missing") == 212_992


# Where the drive is a folder of the disk, its files are counted from outside


def test_bytes_are_counted_once_and_names_each(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(100_000))
    os.link(tmp_path / "folder" / "file", tmp_path / "again")
    (tmp_path / "link").symlink_to("/usr")
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(1 << 30)
    size, files = count_files(str(tmp_path), 100)
    assert files == 5
    assert 100_000 <= size < 200_000


def test_counting_stops_beyond_the_limit(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / name).mkdir()
    assert count_files(str(tmp_path), 3)[1] == 4


def test_files_out_of_reach_are_an_error(tmp_path: Path) -> None:
    name, folder = "d" * 250, os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=folder)
        deeper = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    with pytest.raises(OSError, match="name too long"):
        count_files(str(tmp_path), 100)
