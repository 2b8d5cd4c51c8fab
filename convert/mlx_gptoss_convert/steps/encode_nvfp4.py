"""Encode experts of NVFP4 as MXFP4, with the same codes where that is exact.

Two groups of 16 with one scale that is a power of two are a block of MXFP4: their codes
are kept bit by bit. Other blocks are decoded and encoded with the least error, which is
exact as well where MXFP4 has the values.
"""

from dataclasses import dataclass

import numpy as np

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.foreign_forms import NVFP4_GROUP
from mlx_gptoss.format.layout import BYTES_PER_BLOCK, VALUES_PER_BLOCK
from mlx_gptoss.format.mxfp4 import E8M0_BIAS, E8M0_NAN, decode, encode
from mlx_gptoss_convert.read.nvfp4 import SCALE_BYTES, decode_records, record_bytes
from mlx_gptoss_convert.read.source import TensorReader
from mlx_gptoss_convert.steps.encode import Encode


@dataclass(frozen=True)
class EncodeNvfp4(Encode):
    """Encode experts given as records (see `read/nvfp4.py`): U8 (E, out, bytes)."""

    @property
    def operation(self) -> str:
        return "repack NVFP4 to mxfp4"

    def read_expert(self, reader: TensorReader, expert: int) -> list[np.ndarray]:
        """Read one expert of each source projection as records (out, bytes)."""
        return [
            reader.read(x, expert * x.row_bytes, (expert + 1) * x.row_bytes).reshape(
                x.shape[1:]
            )
            for x in self.sources
        ]

    def encode(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, ...], int]:
        """Encode records; also return how many blocks MXFP4 could not hold exactly."""
        groups = rows.shape[1] // record_bytes(NVFP4_GROUP)
        size = rows.shape[1] - groups * SCALE_BYTES
        codes = np.ascontiguousarray(rows[:, :size])
        scales = np.ascontiguousarray(rows[:, size:]).view(np.float32)
        if not np.isfinite(scales).all():
            raise ConversionError(
                f"`{self.sources[0].name}` in `{self.sources[0].file}` has scales that "
                "are not finite numbers: save the model again"
            )
        return repack_records(codes, scales)


def repack_records(
    codes: np.ndarray, scales: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Repack codes (rows, columns / 2) and float32 scales (rows, columns / 16).

    Returns blocks and scales of MXFP4, and the number of blocks that lost something.
    """
    blocks = codes.reshape(len(codes), -1, BYTES_PER_BLOCK).copy()
    first, second = scales[:, 0::2], scales[:, 1::2]
    fraction, exponent = np.frexp(first)  # a power of two is 0.5 * 2^exponent
    found = exponent.astype(np.int32) - 1 + E8M0_BIAS
    exact = (first == second) & (fraction == 0.5) & (found >= 0) & (found < E8M0_NAN)
    made = np.where(exact, found, 0).astype(np.uint8)
    others = ~exact
    lossy = 0
    if others.any():
        values = decode_records(codes, scales).reshape(*made.shape, VALUES_PER_BLOCK)
        values = values[others]
        encoded, own = encode(values)
        blocks[others], made[others] = encoded[:, 0], own[:, 0]
        lossy = int((decode(encoded, own) != values).any(axis=1).sum())
    return (blocks, made), lossy
