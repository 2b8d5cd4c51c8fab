"""The things a conversion does to a tensor, each a small dataclass with its bytes.

A step reads its sources once, in order, and yields (output, piece) pairs whose pieces
follow each other within an output. Peak memory of a step: some twenty times
`CODEC_SLICE_BYTES`, or, where experts are encoded, one dense expert of each source as
float32, twice. Knows bytes and codecs, nothing of names, files to write or journals.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlx_gptoss.config import Quantization
from mlx_gptoss.layout import DTYPE_BYTES
from mlx_gptoss.mxfp4 import VALUES_PER_BLOCK, decode, encode
from mlx_gptoss_convert.requantize import (
    Affine,
    decode_affine,
    encode_affine,
    to_float32,
)
from mlx_gptoss_convert.source import SLICE_BYTES, Source, Stored
from mlx_gptoss_convert.writer import Tensor

CODEC_SLICE_BYTES = SLICE_BYTES // 4
ENCODED_ROWS = 512  # an even number, so that gate and up rows stay in step

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
class Quantize:
    """Dense rows to affine weight, scales and biases."""

    sources: tuple[Stored]
    outputs: tuple[Tensor, Tensor, Tensor]
    setting: Quantization

    @property
    def fate(self) -> str:
        return f"quantize to {self.setting.bits} bits"

    def pieces(self, source: Source) -> Pieces:
        stored = self.sources[0]
        for raw in source.slices(stored, CODEC_SLICE_BYTES):
            values = to_float32(items(raw, stored), stored.dtype)
            rows = values.reshape(-1, stored.shape[1])
            yield from encode_rows(rows, self.setting, self.outputs[1].dtype)
        return 0


@dataclass(frozen=True)
class Requantize:
    """Affine rows to fewer bits, by way of the values they stand for."""

    sources: tuple[Stored, Stored, Stored]
    outputs: tuple[Tensor, Tensor, Tensor]
    setting: Quantization
    found: Quantization

    @property
    def fate(self) -> str:
        return f"requantize from {self.found.bits} to {self.setting.bits} bits"

    def pieces(self, source: Source) -> Pieces:
        weight, scales, _ = self.sources
        step = max(1, CODEC_SLICE_BYTES // (2 * weight.row_bytes))
        for start in range(0, weight.shape[0], step):
            stop = min(start + step, weight.shape[0])
            parts = [
                items(
                    source.read(part, start * part.row_bytes, stop * part.row_bytes),
                    part,
                ).reshape(stop - start, -1)
                for part in self.sources
            ]
            rows = decode_affine(
                Affine(*parts),
                bits=self.found.bits,
                group_size=self.found.group_size,
                dtype=scales.dtype,
            )
            yield from encode_rows(rows, self.setting, self.outputs[1].dtype)
        return 0


@dataclass(frozen=True)
class Encode:
    """Dense experts to MXFP4 blocks and scales, expert by expert.

    One source or two (gate and up, whose rows are then interleaved); weight and scales
    of one output or of two (even rows to the first, odd rows to the second).
    """

    sources: tuple[Stored, ...]  # (E, out, in), or (E, in, out) if transposed
    outputs: tuple[Tensor, ...]
    is_transposed: bool
    fate = "encode to mxfp4"

    def pieces(self, source: Source) -> Pieces:
        lossy = 0
        for expert in range(self.sources[0].shape[0]):
            parts = [self.read(source, stored, expert) for stored in self.sources]
            values = np.stack(parts, axis=1).reshape(-1, parts[0].shape[1])
            for start in range(0, len(values), ENCODED_ROWS):
                rows = values[start : start + ENCODED_ROWS]
                blocks, scales = encode(rows)
                lossy += count_lossy(rows, blocks, scales)
                yield from self.deal(blocks, scales)
        return lossy

    def read(self, source: Source, stored: Stored, expert: int) -> np.ndarray:
        """Read one expert as float32 (out, in)."""
        start = expert * stored.row_bytes
        raw = source.read(stored, start, start + stored.row_bytes)
        values = to_float32(items(raw, stored), stored.dtype)
        matrix = values.reshape(stored.shape[1:])
        return matrix.T if self.is_transposed else matrix

    def deal(self, blocks: np.ndarray, scales: np.ndarray) -> Pieces:
        """Give rows to the outputs in turn."""
        ways = len(self.outputs) // 2
        for way in range(ways):
            yield 2 * way, np.ascontiguousarray(blocks[way::ways])
            yield 2 * way + 1, np.ascontiguousarray(scales[way::ways])
        return 0


def encode_rows(rows: np.ndarray, setting: Quantization, dtype: str) -> Pieces:
    encoded = encode_affine(
        rows, bits=setting.bits, group_size=setting.group_size, dtype=dtype
    )
    yield from enumerate(encoded)
    return 0


def count_lossy(values: np.ndarray, blocks: np.ndarray, scales: np.ndarray) -> int:
    """Count the blocks that do not decode to the values they were encoded from."""
    wrong = (decode(blocks, scales) != values).reshape(-1, VALUES_PER_BLOCK)
    return int(wrong.any(axis=1).sum())


def items(raw: np.ndarray, stored: Stored) -> np.ndarray:
    """See raw bytes as the items of a tensor: floats of two bytes as their bits."""
    types = {1: np.uint8, 2: np.uint16, 4: np.uint32}
    return raw.view(types[DTYPE_BYTES[stored.dtype]])
