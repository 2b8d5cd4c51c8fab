"""Tensors with an adapter's update added, read like any other tensor of a source.

An update adds (a @ b).T to a weight. It is computed in float32, rank by rank in a fixed
order, so that every machine reads the same bytes. Peak memory: the rows that are read,
and the update of one matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from mlx_gptoss.checkpoint.adapters import StoredAdapter, WeightUpdate
from mlx_gptoss.format.config import Quantization
from mlx_gptoss_convert.read.gguf_blocks import BlockDecoder
from mlx_gptoss_convert.read.gguf_types import GgmlType
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import to_float32
from mlx_gptoss_convert.steps.codecs import as_elements, decode_rows
from mlx_gptoss_convert.steps.rearrange import Copy
from mlx_gptoss_convert.steps.step import TensorStep

MERGED = "merged"  # the name of the decoder
FLOAT32_BYTES = 4
ROWS_AT_ONCE = 64  # a few of them, with their sums, stay in a core's cache


class UpdateReader:
    """Reads the updates of an adapter; keeps the last one, which is read in slices."""

    def __init__(self, adapter: StoredAdapter) -> None:
        self.adapter = adapter
        self._last: tuple[str, WeightUpdate] | None = None

    def read(self, path: str) -> WeightUpdate:
        if self._last is None or self._last[0] != path:
            self._last = None  # gives its memory back first
            self._last = path, self.adapter.read(path)
        return self._last[1]


@dataclass(frozen=True, eq=False)
class MergedRows:
    """Float32 values of a weight with the update of `path` added; a `ByteDecoder`.

    `base` is the stored weight, with its scales (and biases) if `setting` says that it
    is packed. `half` is 0 for the gate rows of gate_up_proj and 1 for its up rows,
    where these are stored apart. `shape` is that of the weight: (out, in),
    (E, out, in), or (E, in, out) if `is_transposed`.
    """

    base: tuple[SourceTensor, ...]
    setting: Quantization | None
    shape: tuple[int, ...]
    path: str
    updates: UpdateReader
    float_dtype: str  # of the checkpoint's floats: what the sum is rounded to
    half: int | None = None
    is_transposed: bool = False
    name = MERGED

    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the bytes `start` to `stop` of the sum; `read` is not used."""
        row_bytes = self.shape[-1] * FLOAT32_BYTES
        first, last = start // row_bytes, -(-stop // row_bytes)
        values = self.base_rows(first, last)
        rows = self.shape[-2]
        for matrix in range(first // rows, -(-last // rows)):
            begin, end = max(first, matrix * rows), min(last, (matrix + 1) * rows)
            left, right = self.factors(matrix)
            part = slice(begin - matrix * rows, end - matrix * rows)
            add_product(values[begin - first : end - first], left[part], right)
        skipped = start - first * row_bytes
        return values.reshape(-1).view(np.uint8)[skipped : skipped + stop - start]

    def base_rows(self, first: int, last: int) -> np.ndarray:
        """Decode rows of the stored weight, counted over all experts: (n, columns)."""
        stored = tuple(tensor.flat(len(self.shape) - 1) for tensor in self.base)
        with TensorReader() as reader:
            raw = [
                reader.read(x, first * x.row_bytes, last * x.row_bytes) for x in stored
            ]
        if self.setting is not None:
            return decode_rows(stored, raw, last - first, self.setting)
        values = to_float32(as_elements(raw[0], stored[0]), stored[0].dtype)
        return np.array(values).reshape(last - first, self.shape[-1])

    def factors(self, matrix: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors of one matrix's update: (rows, r) and (r, columns)."""
        update = self.updates.read(self.path)
        stacked = update.a.ndim == 3
        a, b = (x[matrix] if stacked else x for x in (update.a, update.b))
        if self.half is not None:
            b = b[:, self.half :: 2]
        return (a, b) if self.is_transposed else (b.T, a.T)

    @property
    def file_bytes(self) -> int:
        """Bytes of the stored weight."""
        return sum(tensor.nbytes for tensor in self.base)

    @property
    def update_bytes(self) -> int:
        """Bytes of the update in float32, and of the copy made while it is read."""
        pairs = self.updates.adapter.pairs[self.path]
        return 2 * sum(FLOAT32_BYTES * (x.a.count + x.b.count) for x in pairs)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * FLOAT32_BYTES


def add_product(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Add left (n, r) @ right (r, c) to `values` (n, c), rank after rank."""
    left, right = (np.ascontiguousarray(x, np.float32) for x in (left, right))
    term = np.empty((ROWS_AT_ONCE, values.shape[1]), np.float32)
    total = np.empty_like(term)
    for start in range(0, len(values), ROWS_AT_ONCE):
        some = left[start : start + ROWS_AT_ONCE]
        total_of, term_of = total[: len(some)], term[: len(some)]
        np.multiply(some[:, :1], right[0], out=total_of)
        for rank in range(1, right.shape[0]):
            np.multiply(some[:, rank, None], right[rank], out=term_of)
            np.add(total_of, term_of, out=total_of)
        values[start : start + ROWS_AT_ONCE] += total_of


def merged_rows(stored: SourceTensor) -> MergedRows | None:
    """Return what a tensor is the sum of, or None if nothing was added to it."""
    return stored.decoder if isinstance(stored.decoder, MergedRows) else None


def bytes_in_files(stored: SourceTensor) -> int:
    """Return the bytes of a tensor of the source as it is stored."""
    merged = merged_rows(stored)
    if merged is not None:
        return merged.file_bytes
    if isinstance(stored.decoder, BlockDecoder):
        return stored.decoder.bytes_in_file(stored.nbytes)
    return stored.nbytes


def describe_step(step: TensorStep) -> str:
    """Name the operation of a step, and how its sources were decoded first."""
    if any(merged_rows(stored) for stored in step.sources):
        return f"merge, {step.operation}"
    kinds = {kind.name: kind for stored in step.sources if (kind := ggml_type(stored))}
    if not kinds:
        return step.operation
    decoded = f"dequantize from {' and '.join(kinds)}"
    if isinstance(step, Copy):
        return f"{decoded} to {step.outputs[0].dtype.lower()}"
    return f"{decoded}, {step.operation}"


def ggml_type(stored: SourceTensor) -> GgmlType | None:
    """Return the type that a tensor is decoded from to floats, if any."""
    decoder = stored.decoder
    return decoder.dequantized if isinstance(decoder, BlockDecoder) else None
