"""Steps that write ggml's types, and steps that decode to dense floats."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import BYTES_PER_BLOCK
from mlx_gptoss_convert.read.gguf_blocks import encode_mxfp4, encode_q8_0
from mlx_gptoss_convert.read.gguf_types import MXFP4
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import from_float32, to_float32
from mlx_gptoss_convert.steps.codecs import CODEC_SLICE_BYTES, as_elements, decode_rows
from mlx_gptoss_convert.steps.encode import Encode
from mlx_gptoss_convert.steps.step import OutputTensor, Pieces
from mlx_gptoss_convert.steps.workers import map_in_order

Q8_0 = "Q8_0"


@dataclass(frozen=True)
class RepackForGgml:
    """Repack MXFP4 weight and scales (E, rows, ...) as ggml's blocks; lossless.

    With two outputs, even rows go to the first (gate), odd rows to the second (up).
    """

    sources: tuple[SourceTensor, SourceTensor]
    outputs: tuple[OutputTensor, ...]
    operation = "repack for ggml"

    def pieces(self, reader: TensorReader) -> Pieces:
        parts = len(self.outputs)
        stored = [tensor.flat(2) for tensor in self.sources]
        row_bytes = stored[0].row_bytes

        def repack(raw: list[np.ndarray]) -> list[np.ndarray]:
            blocks = encode_mxfp4(raw[0].reshape(-1, BYTES_PER_BLOCK), raw[1])
            rows = blocks.reshape(raw[0].nbytes // row_bytes, -1)
            return [np.ascontiguousarray(rows[part::parts]) for part in range(parts)]

        step = max(1, CODEC_SLICE_BYTES // (parts * row_bytes)) * parts
        for pieces in map_in_order(repack, reader.rows_of(stored, step)):
            yield from enumerate(pieces)
        return 0


@dataclass(frozen=True)
class EncodeForGgml(Encode):
    """Encode experts as ggml's MXFP4 blocks; each output is one projection."""

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
        by_row, parts = joined.reshape(rows, -1), len(self.outputs)
        for part in range(parts):
            yield part, np.ascontiguousarray(by_row[part::parts])
        return 0


@dataclass(frozen=True)
class Reencode:
    """Decode a tensor and write its values as floats or as Q8_0.

    `source_setting` is the packing of the source, None if dense. With two outputs
    (the biases of gate and up), values go to them in turn.
    """

    sources: tuple[SourceTensor, ...]
    outputs: tuple[OutputTensor, ...]
    to: str  # "BF16", "F16", "F32" or Q8_0
    source_setting: Quantization | None = None

    @property
    def operation(self) -> str:
        if self.to == Q8_0:
            return "quantize to Q8_0"
        if self.source_setting is not None:
            return (
                f"dequantize from {self.source_setting.bits} bits to {self.to.lower()}"
            )
        return f"store as {self.to.lower()}"

    def pieces(self, reader: TensorReader) -> Pieces:
        parts = len(self.outputs)
        for values in self.values(reader):
            if self.to == Q8_0:
                yield 0, encode_q8_0(values)
                continue
            flat = values.reshape(-1)
            for part in range(parts):
                yield part, from_float32(flat[part::parts], self.to)
        return 0

    def values(self, reader: TensorReader) -> Iterator[np.ndarray]:
        """Read slices of float32 rows; a vector has rows of one value."""
        first = self.sources[0]
        if self.source_setting is None:
            # Whole rows, so that gate and up stay paired.
            for raw in reader.slices(first, CODEC_SLICE_BYTES):
                values = to_float32(as_elements(raw, first), first.dtype)
                yield values.reshape(-1, *first.shape[1:])
            return
        step = max(1, CODEC_SLICE_BYTES // (2 * first.row_bytes))
        for raw in reader.rows_of(self.sources, step):
            count = raw[0].nbytes // first.row_bytes
            yield decode_rows(self.sources, raw, count, self.source_setting)
