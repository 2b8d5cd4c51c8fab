"""Read stored tensors into existing memory, decoding and casting floats on the way.

Works on NumPy views and file descriptors; knows nothing of models or MLX. NumPy has no
bfloat16; its bits are uint16 here.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_gptoss.checkpoint.decoded_tensor import DecodedTensor
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import read_into
from mlx_gptoss.format.dtypes import RAW_DTYPES, cast
from mlx_gptoss.format.layout import FLOATS

CHUNK_BYTES = 8 << 20  # read by one thread at once
CAST_BYTES = 1 << 20  # read at once where floats are cast; their casts come on top


@dataclass(frozen=True)
class TensorChunk:
    """The flat values `start` to `stop` of a tensor."""

    tensor: StoredTensor
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return (self.stop - self.start) * self.tensor.itemsize


@contextmanager
def open_files(paths: Iterable[Path]) -> Iterator[dict[Path, int]]:
    """Open weight files; yield their descriptors."""
    with ExitStack() as stack:
        files: dict[Path, int] = {}
        for path in paths:
            try:
                files[path] = stack.enter_context(path.open("rb")).fileno()
            except OSError as error:
                raise CheckpointError(
                    f"cannot read `{path}`: {error.strerror}"
                ) from error
        yield files


def split_into_chunks(
    tensor: StoredTensor, *, values: int | None = None
) -> Iterator[TensorChunk]:
    """Split a tensor into chunks of `values` values, by default of `CHUNK_BYTES`."""
    step = values or CHUNK_BYTES // tensor.itemsize
    for start in range(0, tensor.count, step):
        yield TensorChunk(tensor, start, min(start + step, tensor.count))


def read_bytes(
    descriptor: int, tensor: StoredTensor, start: int, out: memoryview
) -> None:
    """Fill `out` with the bytes of a tensor from `start`; raises CheckpointError.

    A tensor with a decoder is decoded.
    """
    if not isinstance(tensor, DecodedTensor):
        read_stored(descriptor, tensor, start, out)
        return

    def read(first: int, last: int) -> np.ndarray:
        raw = np.empty(last - first, np.uint8)
        read_stored(descriptor, tensor, first, raw.data)
        return raw

    out[:] = tensor.decoder.read(read, start, start + len(out)).data


def read_stored(
    descriptor: int, tensor: StoredTensor, start: int, out: memoryview
) -> None:
    """Fill `out` with bytes of the file, from `start` of the tensor."""
    try:
        whole = read_into(descriptor, out, tensor.offset + start)
    except OSError as error:
        raise CheckpointError(
            f"cannot read tensor `{tensor.name}` in `{tensor.file}`: {error.strerror}"
        ) from error
    if not whole:
        raise CheckpointError(
            f"`{tensor.file}` ended inside tensor `{tensor.name}`: it changed "
            "while it was read, load it again"
        )


def read_ahead(tensor: StoredTensor, stopped: Callable[[], bool]) -> None:
    """Read a tensor into the page cache and discard it.

    Failures are ignored here; they show when the tensor is used.
    """
    scratch = memoryview(bytearray(CHUNK_BYTES))
    with suppress(OSError), tensor.file.open("rb", buffering=0) as file:
        for start in range(0, tensor.nbytes, CHUNK_BYTES):
            if stopped():
                return
            size = min(CHUNK_BYTES, tensor.nbytes - start)
            os.preadv(file.fileno(), [scratch[:size]], tensor.offset + start)


def read_values(descriptor: int, chunk: TensorChunk) -> np.ndarray:
    """Read a chunk in its stored dtype (bfloat16 as uint16)."""
    values = np.empty(chunk.stop - chunk.start, RAW_DTYPES[chunk.tensor.dtype])
    start = chunk.start * values.itemsize
    read_bytes(descriptor, chunk.tensor, start, values.view(np.uint8).data)
    return values


def cast_values(descriptor: int, chunk: TensorChunk, to: np.dtype) -> np.ndarray:
    """Read a chunk and cast it; raises CheckpointError for what float16 cannot hold."""
    values = cast(read_values(descriptor, chunk), chunk.tensor.dtype, to)
    if to == np.float16 and np.isinf(values).any():
        raise CheckpointError(
            f"tensor `{chunk.tensor.name}` in `{chunk.tensor.file}` has values beyond "
            "65,504, which float16 cannot hold: use bfloat16"
        )
    return values


def fill(descriptor: int, chunk: TensorChunk, out: np.ndarray) -> None:
    """Read a chunk into `out` (flat), cast to its dtype; uint16 means bfloat16.

    Without a cast the bytes are read directly into `out`.
    """
    dtype = chunk.tensor.dtype
    if dtype not in FLOATS or RAW_DTYPES[dtype] == out.dtype:
        view = out.view(np.uint8).data
        start = chunk.start * chunk.tensor.itemsize
        read_bytes(descriptor, chunk.tensor, start, view)
        return
    step = CAST_BYTES // chunk.tensor.itemsize
    for start in range(chunk.start, chunk.stop, step):
        part = TensorChunk(chunk.tensor, start, min(start + step, chunk.stop))
        place = out[start - chunk.start : part.stop - chunk.start]
        place[:] = cast_values(descriptor, part, out.dtype)


def fill_transposed(descriptor: int, chunk: TensorChunk, out: np.ndarray) -> None:
    """Read one matrix stored (out, in) into a view shaped (in, out)."""
    columns, rows = out.shape
    step = max(1, CAST_BYTES // (columns * chunk.tensor.itemsize))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        start = chunk.start + first * columns
        part = TensorChunk(chunk.tensor, start, chunk.start + last * columns)
        values = cast_values(descriptor, part, out.dtype)
        out[:, first:last] = values.reshape(-1, columns).T
