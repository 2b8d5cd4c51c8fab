"""Lossy steps for matrices outside the experts: quantize, requantize, round to half."""

from dataclasses import dataclass

import numpy as np

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import Quantization
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import from_float32, to_float32
from mlx_gptoss_convert.steps.codecs import (
    CODEC_SLICE_BYTES,
    as_elements,
    decode_rows,
    describe_setting,
    encode_rows,
)
from mlx_gptoss_convert.steps.step import OutputTensor, Pieces
from mlx_gptoss_convert.steps.workers import map_in_order

LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class RoundToHalf:
    """Round a dense tensor to half precision."""

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
    """Quantize a dense matrix to packed weight and scales, and biases if affine."""

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
    """Requantize an affine matrix to fewer bits, through its decoded values."""

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
