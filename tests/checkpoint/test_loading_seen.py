"""Loading as users see it: a progress bar with its rate, and a warm second start."""

import ctypes
import mmap
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.diagnostics.bench.experts import drop_pages
from mlx_gptoss.engine.load import load
from tests.support.streaming import write

LOADS = """
import time
from mlx_gptoss.cli.progress import ByteProgress

with ByteProgress("Loading it") as progress:
    for done in range(1, 8):
        progress(done * 10**9, 8 * 10**9)
        time.sleep(0.15)
"""
TINY_LOADS = """
from mlx_gptoss.cli.progress import ByteProgress

with ByteProgress("Loading it") as progress:
    progress(5, 10)
"""


def in_terminal(code: str) -> str:
    """Run code whose stderr is a terminal; return what was written there."""
    ours, theirs = pty.openpty()
    environment = dict(os.environ, TERM="xterm", COLUMNS="100")
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return written.decode()


def test_loading_shows_gigabytes_a_second() -> None:
    shown = in_terminal(LOADS)
    assert "Loading it" in shown
    assert "GB/s" in shown
    assert "8.0 GB" in shown


def test_what_is_over_at_once_shows_nothing() -> None:
    assert in_terminal(TINY_LOADS) == ""


def test_in_a_pipe_one_line_says_what_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADS], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "Loading it: 8.0 GB\n")


def cached_share(path: Path) -> float:
    """Ask the system which pages of a file it has in memory."""
    pages = -(-path.stat().st_size // mmap.PAGESIZE)
    found = np.zeros(pages, np.uint8)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(start),
            ctypes.c_size_t(len(mapped)),
            found.ctypes.data_as(ctypes.c_void_p),
        )
    assert not failed, os.strerror(ctypes.get_errno())
    return float((found & 1).mean())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
@pytest.mark.parametrize("experts", ["resident", "streamed"])
def test_a_second_start_is_warm(experts: str, tmp_path: Path) -> None:
    """What was read stays in the system's cache: nothing goes past it."""
    checkpoint = write(tmp_path)
    (path,) = checkpoint.files
    drop_pages(checkpoint.files)
    if cached_share(path) > 0.1:
        pytest.skip("this file system keeps its pages whatever it is told")
    with load(tmp_path, experts=experts) as runtime:
        runtime.logits(list(range(3, 60)))  # all experts are chosen by someone
    assert cached_share(path) > 0.9
