"""Weights on a GPU without a copy: file pages mapped, and adopted by MLX.

Metal can use memory it did not allocate if it begins on a page. Tensors do not, so the
pages around one are mapped, adopted, and the tensor is a slice of them seen in its own
dtype: views, no copies. A CPU cannot adopt; whoever calls this reads instead.

Only for what is used whole: Metal wires an entire adopted buffer at its first use.
"""

import mmap
import threading
from collections.abc import Callable, Iterable

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint.parameters import BYTE, FLOAT, WORD, Parameter
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.checkpoint.tensor_reads import read_ahead
from mlx_gptoss.format.dtypes import RAW_DTYPES
from mlx_gptoss.model.device import on_gpu

PAGE_BYTES = 16384  # of Apple silicon; a multiple of everyone else's
READ_AHEAD_THREADS = 4

PageSharing = Callable[[np.ndarray], mx.array]


def share_pages(pages: np.ndarray) -> mx.array:
    """Let MLX use mapped memory as it is; raises ValueError where it would copy.

    MLX keeps the map alive for as long as the array, and from 0.32.4 on never writes
    into memory that it does not own.
    """
    return mx.asarray(pages, copy=False)


def choose_page_sharing() -> PageSharing | None:
    """Return how the default device shares memory; None: it does not."""
    return share_pages if on_gpu() else None


def can_map(parameter: Parameter, dtype: mx.Dtype) -> bool:
    """Say whether a parameter lies in its file exactly as it is to lie in memory."""
    if len(parameter.sources) != 1 or parameter.transposed:
        return False
    (source,) = parameter.sources
    if parameter.form == FLOAT and (source.dtype, dtype) != ("BF16", mx.bfloat16):
        return False
    return source.nbytes > 0 and source.offset % mapping_unit(source).itemsize == 0


def map_parameter(
    parameter: Parameter, dtype: mx.Dtype, share: PageSharing
) -> mx.array | None:
    """Return a parameter that is its file's own pages, or None if it cannot be had."""
    (source,) = parameter.sources
    try:
        shared = share(map_pages(source))
    except (ValueError, TypeError, OverflowError, RuntimeError, MemoryError):
        return None  # the caller reads the file, which always works
    first = source.offset % PAGE_BYTES // mapping_unit(source).itemsize
    count = source.nbytes // mapping_unit(source).itemsize
    named = shared.flatten()[first : first + count].view(
        {WORD: mx.uint32, BYTE: mx.uint8, FLOAT: dtype}[parameter.form]
    )
    array = named.reshape(parameter.shape)
    mx.eval(array)  # views: nothing is read yet
    return array


def map_pages(tensor: StoredTensor) -> np.ndarray:
    """Map the pages around a tensor, read-only.

    As (pages, units of a page), for a dimension is an int32, or flat at the end of a
    file that ends inside a page.
    """
    start = tensor.offset // PAGE_BYTES * PAGE_BYTES
    with tensor.file.open("rb") as file:
        size = file.seek(0, 2)
        end = min(-(-(tensor.offset + tensor.nbytes) // PAGE_BYTES) * PAGE_BYTES, size)
        end -= (end - start) % mapping_unit(tensor).itemsize
        mapped = mmap.mmap(
            file.fileno(), end - start, access=mmap.ACCESS_READ, offset=start
        )
    units = np.frombuffer(mapped, mapping_unit(tensor))
    whole = (end - start) % PAGE_BYTES == 0
    return units.reshape(-1, PAGE_BYTES // units.itemsize) if whole else units


def mapping_unit(tensor: StoredTensor) -> np.dtype:
    """Return the widest unit a tensor can be mapped in: words, where it may."""
    words = tensor.nbytes % 4 == 0 and tensor.offset % 4 == 0
    return np.dtype("<u4") if words else RAW_DTYPES[tensor.dtype]


def start_read_ahead(tensors: Iterable[StoredTensor]) -> threading.Event:
    """Bring mapped tensors into memory, by a few threads in the background.

    Returns an event that ends it. The threads see only files, never MLX.
    """
    stopped = threading.Event()
    waiting = list(tensors)[::-1]
    lock = threading.Lock()

    def following() -> StoredTensor | None:
        with lock:
            return waiting.pop() if waiting and not stopped.is_set() else None

    def work() -> None:
        while (tensor := following()) is not None:
            read_ahead(tensor, stopped.is_set)

    for n in range(READ_AHEAD_THREADS):
        threading.Thread(target=work, name=f"read-ahead-{n}", daemon=True).start()
    return stopped
