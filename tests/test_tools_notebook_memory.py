"""What a notebook takes stays within its limits."""

import sys
from collections.abc import Iterator

import pytest

from mlx_gptoss.tools.notebook import Limits, Notebook
from tests.test_tools_notebook import MB, open_notebook

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="held by Linux itself")


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    limits = Limits(memory=512 * MB, drive_bytes=8 * MB)
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
    "large pipe": "fcntl.fcntl(w, 1031, 1 << 20)",
    "events of files": "assert libc.inotify_init1(0) >= 0",
    "pages in a pipe": "assert libc.vmsplice(w, bytes(16), 0, 0) >= 0",
    "a higher limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
}
# What would let a stopped process go on, or outlive its guard.
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
