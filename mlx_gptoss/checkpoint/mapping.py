"""Map weights into GPU memory without a copy.

Metal can use memory that it did not allocate if it starts on a page. Tensors do not, so
the pages around one are mapped and the tensor is a view of a slice of them. On a CPU
this is not possible; callers read the file instead.

Only for tensors that are used whole: Metal wires an entire mapped buffer at first use.
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

PAGE_BYTES = 16384  # of Apple silicon; a multiple of other page sizes
READ_AHEAD_THREADS = 4

PageSharing = Callable[[np.ndarray], mx.array]


def share_pages(pages: np.ndarray) -> mx.array:
    """Let MLX use mapped memory directly; raises ValueError where it would copy.

    MLX keeps the map alive as long as the array, and since 0.32.4 never writes to
    memory that it does not own.
    """
    return mx.asarray(pages, copy=False)


def choose_page_sharing() -> PageSharing | None:
    """Return `share_pages` on a GPU, else None."""
    return share_pages if on_gpu() else None


def can_map(parameter: Parameter, dtype: mx.Dtype) -> bool:
    """Whether a parameter has the same bytes in its file as in memory."""
    if len(parameter.sources) != 1 or parameter.transposed:
        return False
    (source,) = parameter.sources
    if parameter.form == FLOAT and (source.dtype, dtype) != ("BF16", mx.bfloat16):
        return False
    return source.nbytes > 0 and source.offset % mapping_unit(source).itemsize == 0


def map_parameter(
    parameter: Parameter, dtype: mx.Dtype, share: PageSharing
) -> mx.array | None:
    """Return a parameter backed by its file's pages, or None if mapping fails."""
    (source,) = parameter.sources
    try:
        shared = share(map_pages(source))
    except (ValueError, TypeError, OverflowError, RuntimeError, MemoryError):
        return None  # the caller reads the file instead
    first = source.offset % PAGE_BYTES // mapping_unit(source).itemsize
    count = source.nbytes // mapping_unit(source).itemsize
    named = shared.flatten()[first : first + count].view(
        {WORD: mx.uint32, BYTE: mx.uint8, FLOAT: dtype}[parameter.form]
    )
    array = named.reshape(parameter.shape)
    mx.eval(array)  # views only: nothing is read yet
    return array


def map_pages(tensor: StoredTensor) -> np.ndarray:
    """Map the pages around a tensor, read-only.

    The shape is (pages, units per page), because a dimension is an int32; it is flat if
    the file ends inside the last page.
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
    """Return the widest dtype to map a tensor in: 4-byte words if aligned."""
    words = tensor.nbytes % 4 == 0 and tensor.offset % 4 == 0
    return np.dtype("<u4") if words else RAW_DTYPES[tensor.dtype]


def start_read_ahead(tensors: Iterable[StoredTensor]) -> threading.Event:
    """Read mapped tensors into the page cache with a few background threads.

    Returns an event that stops them. The threads use files only, never MLX.
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
