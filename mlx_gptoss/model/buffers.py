"""Arrays to be filled by whoever reads: MLX allocates them and writes nothing.

`mx.zeros` would write every page once before the file does, in one thread; for large
models on a CPU that is most of the time of loading. MLX has no `empty`, but it loads
from objects that only look like files: this one has a header, and leaves the memory it
is given as it is.

On Linux the pages are asked to be huge, which makes touching them several times cheaper
where the system hands them out on request.
"""

import ctypes
import json
import mmap
import sys
from math import prod

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
HUGE_PAGES_MIN_BYTES = 2 * HUGE_PAGE  # bytes; less is over before it pays


class HeaderOnlyFile:
    """A safetensors file of one tensor of which only the header can be read."""

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
    """Return an evaluated array of any content, to be written through its memory."""
    if use_gpu_paths() or dtype not in SAFETENSORS_DTYPES or not prod(shape):
        array = mx.zeros(shape, dtype)
        mx.eval(array)
        return array
    loaded = mx.load(HeaderOnlyFile(shape, dtype), format="safetensors")  # pyright: ignore
    array = loaded[NAME]  # pyright: ignore
    mx.eval(array)
    if sys.platform == "linux" and array.nbytes >= HUGE_PAGES_MIN_BYTES:
        advise_huge_pages(np.asarray(array))
    return array


def advise_huge_pages(memory: np.ndarray) -> None:
    """Advise the system about the whole huge pages inside some memory.

    Only advice: whether it is taken changes nothing but the time.
    """
    first = -(-memory.ctypes.data // HUGE_PAGE) * HUGE_PAGE
    end = (memory.ctypes.data + memory.nbytes) // HUGE_PAGE * HUGE_PAGE
    if end > first:
        libc = ctypes.CDLL(None)
        libc.madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_HUGEPAGE
        )
