"""Encode experts expert by expert: to MXFP4, affine or dense floats.

MXFP4 is exact where it can hold the values; other blocks are counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import from_float32, to_float32
from mlx_gptoss_convert.steps.codecs import (
    ENCODED_KINDS,
    as_elements,
    count_lossy,
    decode_rows,
    describe_setting,
    encode_rows,
)
from mlx_gptoss_convert.steps.step import OutputTensor, Pieces
from mlx_gptoss_convert.steps.workers import map_in_order

ENCODED_ROWS = 512  # even, so that gate and up rows stay paired


@dataclass(frozen=True)
class Encode:
    """Encode experts one by one, from dense floats or from `source_setting`.

    The sources are one projection, or gate and up, whose rows are then interleaved;
    each is a weight with its scales and biases, if any. The outputs are one projection,
    or two: even rows to the first, odd rows to the second. If it `is_joined`, one
    source has all rows of gate before those of up.
    """

    sources: tuple[SourceTensor, ...]  # (E, out, ...), or (E, in, out) if transposed
    outputs: tuple[OutputTensor, ...]
    is_transposed: bool
    setting: Quantization = MXFP4
    source_setting: Quantization | None = None
    is_joined: bool = False

    @property
    def operation(self) -> str:
        return f"encode to {describe_setting(self.setting)}"

    @property
    def block_count(self) -> int:
        """Number of MXFP4 blocks in the outputs: one scale byte each."""
        return sum(tensor.nbytes for tensor in self.outputs[1::2])

    def pieces(self, reader: TensorReader) -> Pieces:
        lossy = 0
        for encoded, wrong in map_in_order(self.encode, self.slices(reader)):
            lossy += wrong
            yield from self.split_rows(encoded)
        return lossy

    def slices(self, reader: TensorReader) -> Iterator[np.ndarray]:
        """Read every expert in slices of float32 rows."""
        for expert in range(self.sources[0].shape[0]):
            values = self.expert_rows(reader, expert)
            for start in range(0, len(values), ENCODED_ROWS):
                yield values[start : start + ENCODED_ROWS]

    def expert_rows(self, reader: TensorReader, expert: int) -> np.ndarray:
        """Read one expert as float32 (out, in), rows of gate and up interleaved."""
        parts = self.read_expert(reader, expert)
        if self.is_joined:
            parts = np.split(parts[0], 2)
        return np.stack(parts, axis=1).reshape(-1, parts[0].shape[1])

    def encode(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, ...], int]:
        """Encode rows; also return how many blocks MXFP4 could not hold exactly."""
        encoded = encode_rows(rows, self.setting)
        if self.setting != MXFP4:
            return encoded, 0
        return encoded, count_lossy(rows, encoded[0], encoded[1])

    def read_expert(self, reader: TensorReader, expert: int) -> list[np.ndarray]:
        """Read one expert of each source projection as float32 (out, in)."""
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
        """Distribute rows among the output projections in turn."""
        kinds = len(encoded)
        ways = len(self.outputs) // kinds
        for way in range(ways):
            for kind, part in enumerate(encoded):
                yield way * kinds + kind, np.ascontiguousarray(part[way::ways])
        return 0


@dataclass(frozen=True)
class DecodeExperts:
    """Write experts as dense floats, as stored or `source_setting` decoded.

    Sources and outputs as in `Encode`; each output is one projection, (E, out, in), or
    (E, in, out) if `transposes`. Peak memory: three float32 copies of one expert.
    """

    sources: tuple[SourceTensor, ...]
    outputs: tuple[OutputTensor, ...]
    is_transposed: bool
    transposes: bool
    source_setting: Quantization | None = None
    is_joined: bool = False

    @property
    def operation(self) -> str:
        return f"store as {self.outputs[0].dtype.lower()}"

    def pieces(self, reader: TensorReader) -> Pieces:
        experts = Encode(
            self.sources,
            (),
            self.is_transposed,
            source_setting=self.source_setting,
            is_joined=self.is_joined,
        )
        ways = len(self.outputs)
        for expert in range(self.sources[0].shape[0]):
            rows = experts.expert_rows(reader, expert)
            for way, output in enumerate(self.outputs):
                matrix = rows[way::ways].T if self.transposes else rows[way::ways]
                yield way, from_float32(np.ascontiguousarray(matrix), output.dtype)
        return 0
