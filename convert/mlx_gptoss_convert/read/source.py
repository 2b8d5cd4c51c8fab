"""Bytes of the source, read in slices by `preadv`: never mapped, never whole.

Knows where bytes lie and how to tell that a file was written to; nothing of what the
bytes mean.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from mlx_gptoss.checkpoint import StoredTensor
from mlx_gptoss.checkpoint.value_checks import bad_values
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.layout import BYTES, DTYPE_BYTES, FLOATS

Observer = Callable[["SourceTensor", np.ndarray], None]

# How `bad_values` wants to see raw bytes: bfloat16 as bits, no numpy type being it.
VALUE_TYPES = {
    "U8": np.uint8,
    "F8_E8M0": np.uint8,
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
}
SLICE_BYTES = 8 * 1024**2


class ByteDecoder(Protocol):
    """How bytes in a file are seen as other bytes, a fixed number for each block."""

    @property
    def name(self) -> str: ...
    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the seen bytes `start` to `stop`; `read` takes offsets in the file."""
        ...


@dataclass(frozen=True)
class DecodedTensor(StoredTensor):
    """A tensor whose dtype, shape and length are those seen through a view."""

    decoder: ByteDecoder


@dataclass(frozen=True)
class SourceTensor:
    """Where a tensor, or some rows of one, lies in a file."""

    name: str  # as the file calls it
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    decoder: ByteDecoder | None = None  # None: the bytes of the file as they are

    @classmethod
    def from_checkpoint(cls, name: str, tensor: StoredTensor) -> "SourceTensor":
        """Take a tensor of an opened checkpoint, under its canonical name."""
        view = tensor.decoder if isinstance(tensor, DecodedTensor) else None
        return cls(name, tensor.dtype, tensor.shape, tensor.file, tensor.offset, view)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes

    def flat(self, row_axes: int) -> "SourceTensor":
        """See the first `row_axes` axes as one, the rest as one."""
        rows, columns = math.prod(self.shape[:row_axes]), self.shape[row_axes:]
        return replace(self, shape=(rows, math.prod(columns)))

    def pairs(self) -> "SourceTensor":
        """See rows of the second axis two by two: (E, 2F, ...) as (E * F, ...)."""
        rows, columns = self.flat(2).shape
        return replace(self, shape=(rows // 2, 2 * columns))


class TensorReader:
    """The open files of a checkpoint; a context manager that closes them."""

    def __init__(self, observer: Observer | None = None) -> None:
        """`observer` is called with every piece read and what it is a piece of."""
        self._observer = observer
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> "TensorReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read(self, stored: SourceTensor, start: int, stop: int) -> np.ndarray:
        """Read bytes `start` to `stop` of a tensor as uint8."""
        if stored.decoder is None:
            raw = self._read_file(stored, start, stop)
        else:
            raw = stored.decoder.read(partial(self._read_file, stored), start, stop)
        if self._observer is not None:
            self._observer(stored, raw)
        return raw

    def slices(
        self, stored: SourceTensor, slice_bytes: int = SLICE_BYTES
    ) -> Iterator[np.ndarray]:
        """Read a tensor in slices of whole rows, at least one row each."""
        step = max(1, slice_bytes // max(1, stored.row_bytes)) * stored.row_bytes
        for start in range(0, stored.nbytes, step):
            yield self.read(stored, start, min(start + step, stored.nbytes))

    def rows_of(
        self, stored: Sequence[SourceTensor], step: int
    ) -> Iterator[list[np.ndarray]]:
        """Read `step` rows at a time of tensors that have as many rows each."""
        for start in range(0, stored[0].shape[0], step):
            stop = min(start + step, stored[0].shape[0])
            yield [
                self.read(part, start * part.row_bytes, stop * part.row_bytes)
                for part in stored
            ]

    def _read_file(self, stored: SourceTensor, start: int, stop: int) -> np.ndarray:
        raw = np.empty(stop - start, np.uint8)
        view = raw.data
        descriptor = self._open(stored.file)
        at = stored.offset + start
        while view:
            count = os.preadv(descriptor, [view], at)
            if count == 0:
                raise ConversionError(
                    f"`{stored.file}` ends inside tensor `{stored.name}`: download it "
                    "again"
                )
            view = view[count:]
            at += count
        return raw

    def _open(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        return self._descriptors[path]


def file_stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written: its size and its time in ns."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConversionError(f"cannot read `{path}`: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def check_values(stored: SourceTensor, raw: np.ndarray) -> None:
    """Refuse a piece with values no sound model has: NaN scales, non-finite floats."""
    is_scales = stored.name.endswith(".scales") and stored.dtype in BYTES
    if not is_scales and stored.dtype not in FLOATS:
        return
    if bad_values(stored.dtype, raw.view(VALUE_TYPES[stored.dtype])).any():
        raise ConversionError(
            f"tensor `{stored.name}` in `{stored.file}` has values that are not finite "
            "numbers: the file is damaged or the model is broken, download it again"
        )
