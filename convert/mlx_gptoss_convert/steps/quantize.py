"""The things a conversion does to a tensor, each a small dataclass with its bytes.

A step reads its sources once, in order, and yields (output, piece) pairs whose pieces
follow each other within an output. Peak memory of a step: some twenty times
`CODEC_SLICE_BYTES`, or, where experts are encoded, one dense expert of each source as
float32, twice. Knows bytes and codecs, nothing of names, files to write or journals.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.layout import BYTES_PER_BLOCK, DTYPE_BYTES
from mlx_gptoss.format.mxfp4 import VALUES_PER_BLOCK, decode, encode
from mlx_gptoss_convert.read.source import SLICE_BYTES, SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import (
    AffineRows,
    decode_affine,
    encode_affine,
    from_float32,
    to_float32,
)
from mlx_gptoss_convert.steps.workers import map_in_order
from mlx_gptoss_convert.write.writer import OutputTensor

CODEC_SLICE_BYTES = SLICE_BYTES // 4
ENCODED_ROWS = 512  # an even number, so that gate and up rows stay in step
AFFINE_FLOATS = "BF16"  # dtype of the scales and biases written here
ENCODED_KINDS = {  # the tensors a packed matrix is made of, by mode
    "affine": ("weight", "scales", "biases"),
    "mxfp4": ("weight", "scales"),
}
LARGEST_HALF = 65504.0

# (output, piece) pairs; returns how many blocks could not be kept exactly.
Pieces = Generator[tuple[int, np.ndarray], None, int]


class TensorStep(Protocol):
    """One step: what it reads, what it writes, and in a few words what it does."""

    @property
    def sources(self) -> tuple[SourceTensor, ...]: ...
    @property
    def outputs(self) -> tuple[OutputTensor, ...]: ...
    @property
    def operation(self) -> str: ...
    def pieces(self, reader: TensorReader) -> Pieces: ...


@dataclass(frozen=True)
class Copy:
    """The same bytes under another name."""

    sources: tuple[SourceTensor]
    outputs: tuple[OutputTensor]
    operation = "copy"

    def pieces(self, reader: TensorReader) -> Pieces:
        stored = self.sources[0]
        for start in range(0, stored.nbytes, SLICE_BYTES):
            stop = min(start + SLICE_BYTES, stored.nbytes)
            yield 0, reader.read(stored, start, stop)
        return 0


@dataclass(frozen=True)
class Interleave:
    """Rows of gate and of up (E, F, ...), made one: gate 0, up 0, gate 1, up 1."""

    sources: tuple[SourceTensor, SourceTensor]
    outputs: tuple[OutputTensor]
    operation = "interleave rows"

    def pieces(self, reader: TensorReader) -> Pieces:
        gate, up = (stored.flat(2) for stored in self.sources)
        for pair in zip(reader.slices(gate), reader.slices(up), strict=True):
            rows = [half.reshape(-1, gate.row_bytes) for half in pair]
            yield 0, np.stack(rows, axis=1)
        return 0


@dataclass(frozen=True)
class Deinterleave:
    """The inverse: even rows of gate_up (E, 2F, ...) to gate, odd rows to up."""

    sources: tuple[SourceTensor]
    outputs: tuple[OutputTensor, OutputTensor]
    operation = "deinterleave rows"

    def pieces(self, reader: TensorReader) -> Pieces:
        row_bytes = self.sources[0].flat(2).row_bytes
        for raw in reader.slices(self.sources[0].pairs()):
            rows = raw.reshape(-1, 2, row_bytes)
            yield 0, np.ascontiguousarray(rows[:, 0])
            yield 1, np.ascontiguousarray(rows[:, 1])
        return 0


@dataclass(frozen=True)
class RoundToHalf:
    """The same numbers rounded to half precision."""

    sources: tuple[SourceTensor]
    outputs: tuple[OutputTensor]
    operation = "round to fp16"

    def pieces(self, reader: TensorReader) -> Pieces:
        stored = self.sources[0]
        for raw in reader.slices(stored, CODEC_SLICE_BYTES):
            values = to_float32(as_elements(raw, stored), stored.dtype)
            if np.abs(values).max(initial=0) > LARGEST_HALF:
                raise ConversionError(
                    f"`{stored.name}` has values that half precision cannot hold: "
                    "use `bf16`"
                )
            yield 0, from_float32(values, self.outputs[0].dtype)
        return 0


@dataclass(frozen=True)
class Quantize:
    """Dense rows to packed weight and scales, and biases if affine."""

    sources: tuple[SourceTensor]
    outputs: tuple[OutputTensor, ...]
    setting: Quantization

    @property
    def operation(self) -> str:
        return f"quantize to {describe_setting(self.setting)}"

    def pieces(self, reader: TensorReader) -> Pieces:
        stored = self.sources[0]

        def pack(raw: np.ndarray) -> tuple[np.ndarray, ...]:
            values = to_float32(as_elements(raw, stored), stored.dtype)
            return encode_rows(values.reshape(-1, stored.shape[1]), self.setting)

        for packed in map_in_order(pack, reader.slices(stored, CODEC_SLICE_BYTES)):
            yield from enumerate(packed)
        return 0


@dataclass(frozen=True)
class Requantize:
    """Affine rows to fewer bits, by way of the values they stand for."""

    sources: tuple[SourceTensor, SourceTensor, SourceTensor]
    outputs: tuple[OutputTensor, ...]
    setting: Quantization
    source_setting: Quantization

    @property
    def operation(self) -> str:
        before, after = map(describe_setting, (self.source_setting, self.setting))
        return f"requantize from {before} to {after}"

    def pieces(self, reader: TensorReader) -> Pieces:
        def pack(raw: list[np.ndarray]) -> tuple[np.ndarray, ...]:
            count = raw[0].nbytes // self.sources[0].row_bytes
            rows = decode_rows(self.sources, raw, count, self.source_setting)
            return encode_rows(rows, self.setting)

        step = max(1, CODEC_SLICE_BYTES // (2 * self.sources[0].row_bytes))
        for packed in map_in_order(pack, reader.rows_of(self.sources, step)):
            yield from enumerate(packed)
        return 0


@dataclass(frozen=True)
class Encode:
    """Experts to another form, expert by expert: dense ones, or `found` packed.

    One projection or two (gate and up, whose rows are then interleaved), each of a
    weight and what belongs to it; outputs of one projection or of two (even rows to
    the first, odd rows to the second).
    """

    sources: tuple[SourceTensor, ...]  # (E, out, ...), or (E, in, out) if transposed
    outputs: tuple[OutputTensor, ...]
    is_transposed: bool
    setting: Quantization = MXFP4
    source_setting: Quantization | None = None

    @property
    def operation(self) -> str:
        return f"encode to {describe_setting(self.setting)}"

    @property
    def block_count(self) -> int:
        """Count the blocks of 32 that MXFP4 has: one byte of scale each."""
        return sum(tensor.nbytes for tensor in self.outputs[1::2])

    def pieces(self, reader: TensorReader) -> Pieces:
        lossy = 0
        for encoded, wrong in map_in_order(self.encode, self.slices(reader)):
            lossy += wrong
            yield from self.split_rows(encoded)
        return lossy

    def slices(self, reader: TensorReader) -> Iterator[np.ndarray]:
        """Read every expert as float32 rows, some at a time."""
        for expert in range(self.sources[0].shape[0]):
            parts = self.read_expert(reader, expert)
            values = np.stack(parts, axis=1).reshape(-1, parts[0].shape[1])
            for start in range(0, len(values), ENCODED_ROWS):
                yield values[start : start + ENCODED_ROWS]

    def encode(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, ...], int]:
        """Pack rows, and count the blocks that MXFP4 could not keep."""
        encoded = encode_rows(rows, self.setting)
        if self.setting != MXFP4:
            return encoded, 0
        return encoded, count_lossy(rows, encoded[0], encoded[1])

    def read_expert(self, reader: TensorReader, expert: int) -> list[np.ndarray]:
        """Read one expert of every projection as float32 (out, in)."""
        kinds = (
            1
            if self.source_setting is None
            else len(ENCODED_KINDS[self.source_setting.mode])
        )
        matrices = []
        for first in range(0, len(self.sources), kinds):
            stored = self.sources[first : first + kinds]
            raw = [
                reader.read(x, expert * x.row_bytes, (expert + 1) * x.row_bytes)
                for x in stored
            ]
            if self.source_setting is not None:
                rows = stored[0].shape[1]
                matrices.append(decode_rows(stored, raw, rows, self.source_setting))
                continue
            values = to_float32(as_elements(raw[0], stored[0]), stored[0].dtype)
            matrix = values.reshape(stored[0].shape[1:])
            matrices.append(matrix.T if self.is_transposed else matrix)
        return matrices

    def split_rows(self, encoded: tuple[np.ndarray, ...]) -> Pieces:
        """Give rows to the outputs in turn."""
        kinds = len(encoded)
        ways = len(self.outputs) // kinds
        for way in range(ways):
            for kind, part in enumerate(encoded):
                yield way * kinds + kind, np.ascontiguousarray(part[way::ways])
        return 0


def describe_setting(setting: Quantization) -> str:
    return setting.mode if setting == MXFP4 else f"{setting.bits} bits"


def encode_rows(rows: np.ndarray, setting: Quantization) -> tuple[np.ndarray, ...]:
    """Pack float32 rows: weight, scales, and biases if affine."""
    if setting.mode == MXFP4.mode:
        return encode(rows)
    return encode_affine(
        rows, bits=setting.bits, group_size=setting.group_size, dtype=AFFINE_FLOATS
    )


def decode_rows(
    stored: tuple[SourceTensor, ...],
    raw: list[np.ndarray],
    rows: int,
    found: Quantization,
) -> np.ndarray:
    """Unpack the raw bytes of `rows` rows, a piece of every tensor, to float32."""
    weight, *others = (
        as_elements(part, x).reshape(rows, -1)
        for part, x in zip(raw, stored, strict=True)
    )
    if found.mode == MXFP4.mode:
        blocks = weight.view(np.uint8).reshape(rows, -1, BYTES_PER_BLOCK)
        return decode(blocks, others[0])
    return decode_affine(
        AffineRows(weight, *others),
        bits=found.bits,
        group_size=found.group_size,
        dtype=stored[1].dtype,
    )


def count_lossy(values: np.ndarray, blocks: np.ndarray, scales: np.ndarray) -> int:
    """Count the blocks that do not decode to the values they were encoded from."""
    wrong = (decode(blocks, scales) != values).reshape(-1, VALUES_PER_BLOCK)
    return int(wrong.any(axis=1).sum())


def as_elements(raw: np.ndarray, stored: SourceTensor) -> np.ndarray:
    """See raw bytes as the items of a tensor: floats of two bytes as their bits."""
    types = {1: np.uint8, 2: np.uint16, 4: np.uint32}
    return raw.view(types[DTYPE_BYTES[stored.dtype]])
