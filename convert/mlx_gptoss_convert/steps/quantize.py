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
from mlx_gptoss_convert.read.source import SLICE_BYTES, Source, Stored
from mlx_gptoss_convert.steps.affine import (
    Affine,
    decode_affine,
    encode_affine,
    from_float32,
    to_float32,
)
from mlx_gptoss_convert.steps.workers import in_order
from mlx_gptoss_convert.write.writer import Tensor

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


class Step(Protocol):
    """One step: what it reads, what it writes, and in a few words what it does."""

    @property
    def sources(self) -> tuple[Stored, ...]: ...
    @property
    def outputs(self) -> tuple[Tensor, ...]: ...
    @property
    def fate(self) -> str: ...
    def pieces(self, source: Source) -> Pieces: ...


@dataclass(frozen=True)
class Copy:
    """The same bytes under another name."""

    sources: tuple[Stored]
    outputs: tuple[Tensor]
    fate = "copy"

    def pieces(self, source: Source) -> Pieces:
        stored = self.sources[0]
        for start in range(0, stored.nbytes, SLICE_BYTES):
            stop = min(start + SLICE_BYTES, stored.nbytes)
            yield 0, source.read(stored, start, stop)
        return 0


@dataclass(frozen=True)
class Interleave:
    """Rows of gate and of up (E, F, ...), made one: gate 0, up 0, gate 1, up 1."""

    sources: tuple[Stored, Stored]
    outputs: tuple[Tensor]
    fate = "interleave rows"

    def pieces(self, source: Source) -> Pieces:
        gate, up = (stored.flat(2) for stored in self.sources)
        for pair in zip(source.slices(gate), source.slices(up), strict=True):
            rows = [half.reshape(-1, gate.row_bytes) for half in pair]
            yield 0, np.stack(rows, axis=1)
        return 0


@dataclass(frozen=True)
class Deinterleave:
    """The inverse: even rows of gate_up (E, 2F, ...) to gate, odd rows to up."""

    sources: tuple[Stored]
    outputs: tuple[Tensor, Tensor]
    fate = "deinterleave rows"

    def pieces(self, source: Source) -> Pieces:
        row_bytes = self.sources[0].flat(2).row_bytes
        for raw in source.slices(self.sources[0].pairs()):
            rows = raw.reshape(-1, 2, row_bytes)
            yield 0, np.ascontiguousarray(rows[:, 0])
            yield 1, np.ascontiguousarray(rows[:, 1])
        return 0


@dataclass(frozen=True)
class Cast:
    """The same numbers rounded to half precision."""

    sources: tuple[Stored]
    outputs: tuple[Tensor]
    fate = "round to fp16"

    def pieces(self, source: Source) -> Pieces:
        stored = self.sources[0]
        for raw in source.slices(stored, CODEC_SLICE_BYTES):
            values = to_float32(items(raw, stored), stored.dtype)
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

    sources: tuple[Stored]
    outputs: tuple[Tensor, ...]
    setting: Quantization

    @property
    def fate(self) -> str:
        return f"quantize to {spell(self.setting)}"

    def pieces(self, source: Source) -> Pieces:
        stored = self.sources[0]

        def pack(raw: np.ndarray) -> tuple[np.ndarray, ...]:
            values = to_float32(items(raw, stored), stored.dtype)
            return encode_rows(values.reshape(-1, stored.shape[1]), self.setting)

        for packed in in_order(pack, source.slices(stored, CODEC_SLICE_BYTES)):
            yield from enumerate(packed)
        return 0


@dataclass(frozen=True)
class Requantize:
    """Affine rows to fewer bits, by way of the values they stand for."""

    sources: tuple[Stored, Stored, Stored]
    outputs: tuple[Tensor, ...]
    setting: Quantization
    found: Quantization

    @property
    def fate(self) -> str:
        return f"requantize from {spell(self.found)} to {spell(self.setting)}"

    def pieces(self, source: Source) -> Pieces:
        def pack(raw: list[np.ndarray]) -> tuple[np.ndarray, ...]:
            count = raw[0].nbytes // self.sources[0].row_bytes
            rows = decode_rows(self.sources, raw, count, self.found)
            return encode_rows(rows, self.setting)

        step = max(1, CODEC_SLICE_BYTES // (2 * self.sources[0].row_bytes))
        for packed in in_order(pack, source.rows_of(self.sources, step)):
            yield from enumerate(packed)
        return 0


@dataclass(frozen=True)
class Encode:
    """Experts to another form, expert by expert: dense ones, or `found` packed.

    One projection or two (gate and up, whose rows are then interleaved), each of a
    weight and what belongs to it; outputs of one projection or of two (even rows to
    the first, odd rows to the second).
    """

    sources: tuple[Stored, ...]  # (E, out, ...), or (E, in, out) if transposed
    outputs: tuple[Tensor, ...]
    is_transposed: bool
    setting: Quantization = MXFP4
    found: Quantization | None = None

    @property
    def fate(self) -> str:
        return f"encode to {spell(self.setting)}"

    @property
    def block_count(self) -> int:
        """Count the blocks of 32 that MXFP4 has: one byte of scale each."""
        return sum(tensor.nbytes for tensor in self.outputs[1::2])

    def pieces(self, source: Source) -> Pieces:
        lossy = 0
        for encoded, wrong in in_order(self.encode, self.slices(source)):
            lossy += wrong
            yield from self.deal(encoded)
        return lossy

    def slices(self, source: Source) -> Iterator[np.ndarray]:
        """Read every expert as float32 rows, some at a time."""
        for expert in range(self.sources[0].shape[0]):
            parts = self.read(source, expert)
            values = np.stack(parts, axis=1).reshape(-1, parts[0].shape[1])
            for start in range(0, len(values), ENCODED_ROWS):
                yield values[start : start + ENCODED_ROWS]

    def encode(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, ...], int]:
        """Pack rows, and count the blocks that MXFP4 could not keep."""
        encoded = encode_rows(rows, self.setting)
        if self.setting != MXFP4:
            return encoded, 0
        return encoded, count_lossy(rows, encoded[0], encoded[1])

    def read(self, source: Source, expert: int) -> list[np.ndarray]:
        """Read one expert of every projection as float32 (out, in)."""
        kinds = 1 if self.found is None else len(ENCODED_KINDS[self.found.mode])
        matrices = []
        for first in range(0, len(self.sources), kinds):
            stored = self.sources[first : first + kinds]
            raw = [
                source.read(x, expert * x.row_bytes, (expert + 1) * x.row_bytes)
                for x in stored
            ]
            if self.found is not None:
                rows = stored[0].shape[1]
                matrices.append(decode_rows(stored, raw, rows, self.found))
                continue
            values = to_float32(items(raw[0], stored[0]), stored[0].dtype)
            matrix = values.reshape(stored[0].shape[1:])
            matrices.append(matrix.T if self.is_transposed else matrix)
        return matrices

    def deal(self, encoded: tuple[np.ndarray, ...]) -> Pieces:
        """Give rows to the outputs in turn."""
        kinds = len(encoded)
        ways = len(self.outputs) // kinds
        for way in range(ways):
            for kind, part in enumerate(encoded):
                yield way * kinds + kind, np.ascontiguousarray(part[way::ways])
        return 0


def spell(setting: Quantization) -> str:
    return setting.mode if setting == MXFP4 else f"{setting.bits} bits"


def encode_rows(rows: np.ndarray, setting: Quantization) -> tuple[np.ndarray, ...]:
    """Pack float32 rows: weight, scales, and biases if affine."""
    if setting.mode == MXFP4.mode:
        return encode(rows)
    return encode_affine(
        rows, bits=setting.bits, group_size=setting.group_size, dtype=AFFINE_FLOATS
    )


def decode_rows(
    stored: tuple[Stored, ...],
    raw: list[np.ndarray],
    rows: int,
    found: Quantization,
) -> np.ndarray:
    """Unpack the raw bytes of `rows` rows, a piece of every tensor, to float32."""
    weight, *others = (
        items(part, x).reshape(rows, -1) for part, x in zip(raw, stored, strict=True)
    )
    if found.mode == MXFP4.mode:
        blocks = weight.view(np.uint8).reshape(rows, -1, BYTES_PER_BLOCK)
        return decode(blocks, others[0])
    return decode_affine(
        Affine(weight, *others),
        bits=found.bits,
        group_size=found.group_size,
        dtype=stored[1].dtype,
    )


def count_lossy(values: np.ndarray, blocks: np.ndarray, scales: np.ndarray) -> int:
    """Count the blocks that do not decode to the values they were encoded from."""
    wrong = (decode(blocks, scales) != values).reshape(-1, VALUES_PER_BLOCK)
    return int(wrong.any(axis=1).sum())


def items(raw: np.ndarray, stored: Stored) -> np.ndarray:
    """See raw bytes as the items of a tensor: floats of two bytes as their bits."""
    types = {1: np.uint8, 2: np.uint16, 4: np.uint32}
    return raw.view(types[DTYPE_BYTES[stored.dtype]])
