"""The interface of a conversion step, and the tensors it writes.

Knows names, dtypes, shapes and bytes; nothing of codecs, files to write or journals.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlx_gptoss.format.layout import DTYPE_BYTES
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader

# (output index, piece) pairs; returns the number of blocks that lost something.
Pieces = Generator[tuple[int, np.ndarray], None, int]


@dataclass(frozen=True)
class OutputTensor:
    """The name, dtype and shape of a tensor to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


class TensorStep(Protocol):
    """One operation on one tensor: its sources, its outputs, and a short description.

    `pieces` reads the sources once, in order, and yields (output index, piece) pairs;
    the pieces of an output follow each other. Peak memory: about twenty times
    `CODEC_SLICE_BYTES`, or, for experts that are encoded, two dense float32 copies of
    one expert of each source.
    """

    @property
    def sources(self) -> tuple[SourceTensor, ...]: ...
    @property
    def outputs(self) -> tuple[OutputTensor, ...]: ...
    @property
    def operation(self) -> str: ...
    def pieces(self, reader: TensorReader) -> Pieces: ...
