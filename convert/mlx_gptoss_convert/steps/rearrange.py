"""Lossless steps: copy a tensor, or rearrange the rows of expert projections."""

from dataclasses import dataclass

import numpy as np

from mlx_gptoss_convert.read.source import SLICE_BYTES, SourceTensor, TensorReader
from mlx_gptoss_convert.steps.step import OutputTensor, Pieces


@dataclass(frozen=True)
class Copy:
    """Copy the bytes under another name."""

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
    """Interleave rows of gate and up (E, F, ...): gate 0, up 0, gate 1, up 1, ..."""

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
class Halve:
    """Split gate_up (E, 2F): of each expert the first half to gate, the rest to up."""

    sources: tuple[SourceTensor]
    outputs: tuple[OutputTensor, OutputTensor]
    operation = "split in halves"

    def pieces(self, reader: TensorReader) -> Pieces:
        experts, size = self.sources[0].shape[0], self.sources[0].row_bytes
        for expert in range(experts):
            raw = reader.read(self.sources[0], expert * size, (expert + 1) * size)
            yield from enumerate(np.split(raw, 2))
        return 0


@dataclass(frozen=True)
class Deinterleave:
    """Split gate_up (E, 2F, ...): even rows to gate, odd rows to up."""

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
