"""Disks that take no more: a real one, and a limit that anybody may set.

`small_disk` mounts a file system that `fill` fills, which only root may. A process
under `limit_of` gets EFBIG where a full disk gives ENOSPC.
"""

import errno
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLOCK = 4096


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes at `folder`, or skip the test."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr.splitlines()[:1]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is; removing the file gives it back."""
    path = folder / "fill"
    with path.open("ab", buffering=0) as file:
        for block in (bytes(BLOCK), b"\0"):
            try:
                while True:
                    file.write(block)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return path


@contextmanager
def limit_of(pid: int, most: int) -> Iterator[None]:
    """Let no file of a running process grow past `most` bytes, for a while."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("this system has no `prlimit`")
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
