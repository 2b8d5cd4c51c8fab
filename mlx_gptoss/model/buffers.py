"""Uninitialized MLX arrays for loaders to fill in place.

`mx.zeros` writes every page once, in one thread, before the file's bytes arrive; for
large models on a CPU that is most of the loading time. MLX has no `empty`, but it loads
from file-like objects: `HeaderOnlyFile` provides a safetensors header and leaves the
memory it is given untouched.

On Linux huge pages are requested, which makes first touches several times cheaper
where the system grants them.

A thread of MLX releases the file-like object, some time after its array is evaluated
and with Python's lock. Where the interpreter is gone by then, the process is aborted
(MLX 0.32.4), so the exit waits for it.
"""

import atexit
import ctypes
import json
import mmap
import sys
from math import prod
from time import monotonic, sleep
from weakref import WeakSet

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.device import use_gpu_paths

NAME = "x"
SAFETENSORS_DTYPES = {
    mx.uint8: ("U8", 1),
    mx.uint16: ("U16", 2),
    mx.uint32: ("U32", 4),
    mx.float32: ("F32", 4),
}
HUGE_PAGE = 2 << 20
HUGE_PAGES_MIN_BYTES = 2 * HUGE_PAGE  # below that the request does not pay
EXIT_SECONDS = 5.0  # how long the exit waits at most


_held_files: "WeakSet[HeaderOnlyFile]" = WeakSet()


@atexit.register
def wait_for_release() -> None:
    """Wait until MLX's threads have released every file, for EXIT_SECONDS at most."""
    end = monotonic() + EXIT_SECONDS
    while _held_files and monotonic() < end:
        sleep(0.001)


class HeaderOnlyFile:
    """A file-like object: a safetensors header for one tensor, and no data."""

    closed = False

    def __init__(self, shape: tuple[int, ...], dtype: mx.Dtype) -> None:
        name, width = SAFETENSORS_DTYPES[dtype]
        self._bytes = prod(shape) * width
        offsets = [0, self._bytes]
        entry = {"dtype": name, "shape": list(shape), "data_offsets": offsets}
        text = json.dumps({NAME: entry}).encode()
        self._header = len(text).to_bytes(8, "little") + text
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        end = len(self._header) if count < 0 else self._position + count
        part = self._header[self._position : end]
        self._position += len(part)
        return part

    def readinto(self, memory: memoryview) -> int:
        part = self._header[self._position : self._position + len(memory)]
        memory[: len(part)] = part
        self._position += len(memory)
        return len(memory)

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._position, len(self._header) + self._bytes)[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


def empty(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Return an evaluated array with arbitrary content, to be written in place."""
    if use_gpu_paths() or dtype not in SAFETENSORS_DTYPES or not prod(shape):
        array = mx.zeros(shape, dtype)
        mx.eval(array)
        return array
    file = HeaderOnlyFile(shape, dtype)
    _held_files.add(file)
    loaded = mx.load(file, format="safetensors")  # pyright: ignore
    array = loaded[NAME]  # pyright: ignore
    mx.eval(array)
    if sys.platform == "linux" and array.nbytes >= HUGE_PAGES_MIN_BYTES:
        advise_huge_pages(np.asarray(array))
    return array


def advise_huge_pages(memory: np.ndarray) -> None:
    """Advise the system to use huge pages for the whole ones inside `memory`.

    Advice only: it affects time, not results.
    """
    first = -(-memory.ctypes.data // HUGE_PAGE) * HUGE_PAGE
    end = (memory.ctypes.data + memory.nbytes) // HUGE_PAGE * HUGE_PAGE
    if end > first:
        libc = ctypes.CDLL(None)
        libc.madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_HUGEPAGE
        )
