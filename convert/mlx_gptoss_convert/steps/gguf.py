"""What is done to tensors on the way to a GGUF, or back to dense floats.

Steps as in `steps`, in slices of rows. Knows bytes and codecs, nothing of names.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import BYTES_PER_BLOCK
from mlx_gptoss_convert.read.gguf import MXFP4
from mlx_gptoss_convert.read.gguf_types import encode_mxfp4, encode_q8_0
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import from_float32, to_float32
from mlx_gptoss_convert.steps.quantize import (
    CODEC_SLICE_BYTES,
    Encode,
    Pieces,
    as_elements,
    decode_rows,
)
from mlx_gptoss_convert.steps.workers import map_in_order
from mlx_gptoss_convert.write.writer import OutputTensor

Q8_0 = "Q8_0"


@dataclass(frozen=True)
class RepackForGgml:
    """MXFP4 weight and scales (E, rows, ...) to ggml's blocks, not a bit changed.

    With two outputs even rows go to the first (gate), odd rows to the second (up).
    """

    sources: tuple[SourceTensor, SourceTensor]
    outputs: tuple[OutputTensor, ...]
    operation = "repack for ggml"

    def pieces(self, reader: TensorReader) -> Pieces:
        ways = len(self.outputs)
        stored = [tensor.flat(2) for tensor in self.sources]
        row_bytes = stored[0].row_bytes

        def deal(raw: list[np.ndarray]) -> list[np.ndarray]:
            blocks = encode_mxfp4(raw[0].reshape(-1, BYTES_PER_BLOCK), raw[1])
            rows = blocks.reshape(raw[0].nbytes // row_bytes, -1)
            return [np.ascontiguousarray(rows[way::ways]) for way in range(ways)]

        step = max(1, CODEC_SLICE_BYTES // (ways * row_bytes)) * ways
        for dealt in map_in_order(deal, reader.rows_of(stored, step)):
            yield from enumerate(dealt)
        return 0


@dataclass(frozen=True)
class EncodeForGgml(Encode):
    """Dense experts to ggml's MXFP4 blocks; each output is one projection."""

    @property
    def operation(self) -> str:
        return "encode to mxfp4 for ggml"

    @property
    def block_count(self) -> int:
        return sum(tensor.nbytes for tensor in self.outputs) // MXFP4.nbytes

    def split_rows(self, encoded: tuple[np.ndarray, ...]) -> Pieces:
        blocks, scales = encoded
        rows = len(blocks)
        joined = encode_mxfp4(blocks.reshape(-1, BYTES_PER_BLOCK), scales.reshape(-1))
        dealt, ways = joined.reshape(rows, -1), len(self.outputs)
        for way in range(ways):
            yield way, np.ascontiguousarray(dealt[way::ways])
        return 0


@dataclass(frozen=True)
class Reencode:
    """The values of a tensor, dense or `found` packed, as floats or as Q8_0.

    With two outputs, values go to them in turn: the biases of gate and of up.
    """

    sources: tuple[SourceTensor, ...]
    outputs: tuple[OutputTensor, ...]
    to: str  # "BF16", "F16", "F32" or Q8_0
    source_setting: Quantization | None = None

    @property
    def operation(self) -> str:
        view = self.sources[0].decoder
        if self.to == Q8_0:
            return "quantize to Q8_0"
        if self.source_setting is not None:
            return (
                f"dequantize from {self.source_setting.bits} bits to {self.to.lower()}"
            )
        if view is not None and view.name == Q8_0:
            return f"dequantize from Q8_0 to {self.to.lower()}"
        return f"store as {self.to.lower()}"

    def pieces(self, reader: TensorReader) -> Pieces:
        ways = len(self.outputs)
        for values in self.values(reader):
            if self.to == Q8_0:
                yield 0, encode_q8_0(values)
                continue
            flat = values.reshape(-1)
            for way in range(ways):
                yield way, from_float32(flat[way::ways], self.to)
        return 0

    def values(self, reader: TensorReader) -> Iterator[np.ndarray]:
        """Read float32 rows, some at a time; a vector is rows of one value."""
        first = self.sources[0]
        if self.source_setting is None:
            # Whole rows, so that gate and up stay in step.
            for raw in reader.slices(first, CODEC_SLICE_BYTES):
                values = to_float32(as_elements(raw, first), first.dtype)
                yield values.reshape(-1, *first.shape[1:])
            return
        step = max(1, CODEC_SLICE_BYTES // (2 * first.row_bytes))
        for raw in reader.rows_of(self.sources, step):
            count = raw[0].nbytes // first.row_bytes
            yield decode_rows(self.sources, raw, count, self.source_setting)
