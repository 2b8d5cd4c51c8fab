"""Pack and unpack rows of weights in any quantization mode.

Knows arrays and settings; nothing of steps, names or files.
"""

import numpy as np

from mlx_gptoss.format.block_formats import decode_blocks
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.layout import DTYPE_BYTES
from mlx_gptoss.format.mxfp4 import VALUES_PER_BLOCK, decode, encode
from mlx_gptoss_convert.read.source import SLICE_BYTES, SourceTensor
from mlx_gptoss_convert.steps.affine import (
    AffineRows,
    decode_affine,
    encode_affine,
)

CODEC_SLICE_BYTES = SLICE_BYTES // 4
AFFINE_FLOATS = "BF16"  # dtype of the scales and biases written
ENCODED_KINDS = {  # tensors of a packed matrix, by mode
    "affine": ("weight", "scales", "biases"),
    "mxfp4": ("weight", "scales"),
    "mxfp8": ("weight", "scales"),
    "nvfp4": ("weight", "scales"),
}


def describe_setting(setting: Quantization) -> str:
    return f"{setting.bits} bits" if setting.is_affine else setting.mode


def encode_rows(rows: np.ndarray, setting: Quantization) -> tuple[np.ndarray, ...]:
    """Pack float32 rows to weight and scales, and biases if affine."""
    if setting.mode == MXFP4.mode:
        return encode(rows)
    return encode_affine(
        rows, bits=setting.bits, group_size=setting.group_size, dtype=AFFINE_FLOATS
    )


def decode_rows(
    stored: tuple[SourceTensor, ...],
    raw: list[np.ndarray],
    rows: int,
    setting: Quantization,
) -> np.ndarray:
    """Unpack `rows` rows, given as one piece of each stored tensor, to float32."""
    weight, *others = (
        as_elements(part, x).reshape(rows, -1)
        for part, x in zip(raw, stored, strict=True)
    )
    if not setting.is_affine:
        return decode_blocks(weight.view(np.uint8), others[0], setting.mode)
    return decode_affine(
        AffineRows(weight, *others),
        bits=setting.bits,
        group_size=setting.group_size,
        dtype=stored[1].dtype,
    )


def count_lossy(values: np.ndarray, blocks: np.ndarray, scales: np.ndarray) -> int:
    """Count the blocks that do not decode to the values they were encoded from."""
    wrong = (decode(blocks, scales) != values).reshape(-1, VALUES_PER_BLOCK)
    return int(wrong.any(axis=1).sum())


def as_elements(raw: np.ndarray, stored: SourceTensor) -> np.ndarray:
    """View raw bytes as unsigned integers of the size of the tensor's elements."""
    by_size = {1: np.uint8, 2: np.uint16, 4: np.uint32}
    return raw.view(by_size[DTYPE_BYTES[stored.dtype]])
