"""Read the bytes of tensors in slices by `preadv`, neither mapped nor all at once.

Knows where bytes are and whether a file was modified; nothing of what they mean.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from mlx_gptoss.checkpoint import StoredTensor
from mlx_gptoss.checkpoint.decoded_tensor import ByteDecoder, DecodedTensor
from mlx_gptoss.checkpoint.value_checks import mark_invalid
from mlx_gptoss.checkpoint.wrong_files import NOT_NUMBERS
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.files import read_into
from mlx_gptoss.format.layout import BYTES, DTYPE_BYTES, FLOATS

Observer = Callable[["SourceTensor", np.ndarray], None]  # called with every piece read
Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, current tensor

# dtypes that `bad_values` expects; numpy has no bfloat16, so its bits are passed.
VALUE_TYPES = {
    "U8": np.uint8,
    "F8_E8M0": np.uint8,
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
}
SLICE_BYTES = 8 * 1024**2


@dataclass(frozen=True)
class SourceTensor:
    """A tensor in a file, or some rows of it."""

    name: str  # in the file
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    decoder: ByteDecoder | None = (
        None  # None: the bytes are read as they are in the file
    )
    parts: tuple["SourceTensor", ...] = ()  # tensors it is made of, one after another

    @classmethod
    def from_checkpoint(cls, name: str, tensor: StoredTensor) -> "SourceTensor":
        """Wrap a tensor of an opened checkpoint, under its canonical name."""
        view = tensor.decoder if isinstance(tensor, DecodedTensor) else None
        parts = tuple(
            cls.from_checkpoint(name, part)
            for part in tensor.parts
            if part is not tensor
        )
        return cls(
            name, tensor.dtype, tensor.shape, tensor.file, tensor.offset, view, parts
        )

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes

    def flat(self, row_axes: int) -> "SourceTensor":
        """Merge the first `row_axes` axes into one, and the rest into one."""
        rows, columns = math.prod(self.shape[:row_axes]), self.shape[row_axes:]
        return replace(self, shape=(rows, math.prod(columns)))

    def pairs(self) -> "SourceTensor":
        """Join pairs of rows of the second axis: (E, 2F, ...) as (E * F, ...)."""
        rows, columns = self.flat(2).shape
        return replace(self, shape=(rows // 2, 2 * columns))


class TensorReader:
    """Reads tensors from files opened on demand; a context manager that closes them."""

    def __init__(self, observer: Observer | None = None) -> None:
        """`observer` is called with every piece read and the tensor it belongs to."""
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
        raw = self._read_tensor(stored, start, stop)
        if self._observer is not None:
            self._observer(stored, raw)
        return raw

    def _read_tensor(self, stored: SourceTensor, start: int, stop: int) -> np.ndarray:
        if stored.parts:
            return self._read_parts(stored, start, stop)
        if stored.decoder is None:
            return self._read_file(stored, start, stop)
        return stored.decoder.read(partial(self._read_file, stored), start, stop)

    def _read_parts(self, stored: SourceTensor, start: int, stop: int) -> np.ndarray:
        """Join what the parts have of bytes `start` to `stop`."""
        found, first = [], 0
        for part in stored.parts:
            begin, end = max(start - first, 0), min(stop - first, part.nbytes)
            if begin < end:
                found.append(self._read_tensor(part, begin, end))
            first += part.nbytes
        return found[0] if len(found) == 1 else np.concatenate(found)

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
        """Read `step` rows at a time from tensors with equal numbers of rows."""
        for start in range(0, stored[0].shape[0], step):
            stop = min(start + step, stored[0].shape[0])
            yield [
                self.read(part, start * part.row_bytes, stop * part.row_bytes)
                for part in stored
            ]

    def _read_file(self, stored: SourceTensor, start: int, stop: int) -> np.ndarray:
        raw = np.empty(stop - start, np.uint8)
        descriptor = self._open(stored.file)
        if not read_into(descriptor, raw.data, stored.offset + start):
            raise ConversionError(
                f"`{stored.file}` ends inside tensor `{stored.name}`: it changed "
                "while it was read, convert again from a source that stays"
            )
        return raw

    def _open(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        return self._descriptors[path]


def file_stamp(path: Path) -> tuple[int, int]:
    """Return the size and modification time in ns, which a write changes."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConversionError(f"cannot read `{path}`: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def check_values(stored: SourceTensor, raw: np.ndarray) -> None:
    """Raise ConversionError for NaN scales and non-finite floats in a piece."""
    is_scales = stored.name.endswith(".scales") and stored.dtype in BYTES
    if not is_scales and stored.dtype not in FLOATS:
        return
    if mark_invalid(stored.dtype, raw.view(VALUE_TYPES[stored.dtype])).any():
        raise ConversionError(
            f"tensor `{stored.name}` in `{stored.file}` has values that are not finite "
            f"numbers: {NOT_NUMBERS}"
        )
