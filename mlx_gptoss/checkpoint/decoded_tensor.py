"""Tensors whose bytes in the file stand for others, as the converter presents them.

What the bytes mean is known by the decoder that a tensor carries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlx_gptoss.checkpoint.safetensors_header import StoredTensor


class ByteDecoder(Protocol):
    """Decodes the bytes of a file to others, a fixed number for each block."""

    @property
    def name(self) -> str: ...
    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the decoded bytes `start` to `stop`; `read` takes file offsets."""
        ...


@dataclass(frozen=True)
class DecodedTensor(StoredTensor):
    """A tensor whose dtype, shape and size are those after decoding."""

    decoder: ByteDecoder
