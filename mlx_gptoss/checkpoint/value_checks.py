"""Check the values of a checkpoint for NaN and infinity.

An MXFP4 scale byte of 255 means NaN. Packed values are always valid: all sixteen codes
are numbers.
"""

from collections.abc import Callable

import numpy as np

from mlx_gptoss.checkpoint.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.checkpoint.tensor_reads import (
    TensorChunk,
    open_files,
    read_values,
    split_into_chunks,
)
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.layout import BYTES, FLOATS
from mlx_gptoss.format.mxfp4 import E8M0_NAN

BF16_EXPONENT = 0x7F80  # all ones: infinite or NaN


def check_values(
    checkpoint: Checkpoint, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Read every scale and float; raises CheckpointError for the first bad one.

    `progress` is called with (bytes read, total bytes). Peak memory: about 8 MiB.
    """
    tensors = [
        part
        for name, tensor in checkpoint.tensors.items()
        if is_checkable(name, tensor)
        for part in tensor.parts
    ]
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0
    with open_files(checkpoint.files) as files:
        for tensor in tensors:
            for chunk in split_into_chunks(tensor):
                check_chunk(chunk, read_values(files[tensor.file], chunk))
                done += chunk.nbytes
                if progress is not None:
                    progress(done, total)


def is_checkable(name: str, tensor: StoredTensor) -> bool:
    """Whether a tensor can hold invalid values: scale bytes and all floats."""
    scales = name.endswith(".scales") and tensor.dtype in BYTES
    return scales or tensor.dtype in FLOATS


def check_chunk(chunk: TensorChunk, values: np.ndarray) -> None:
    bad = mark_invalid(chunk.tensor.dtype, values)
    if not bad.any():
        return
    tensor = chunk.tensor
    flat = chunk.start + int(bad.argmax())
    place = tuple(int(i) for i in np.unravel_index(flat, tensor.shape))
    what = "a scale of 255 (NaN)" if tensor.dtype in BYTES else "a non-finite value"
    raise CheckpointError(
        f"tensor `{tensor.name}` in `{tensor.file}` has {what} at {place}: the file "
        "is damaged or the model is broken, download it again"
    )


def mark_invalid(dtype: str, values: np.ndarray) -> np.ndarray:
    """Return a mask of NaN and infinite values."""
    if dtype in BYTES:
        return values == E8M0_NAN
    if dtype == "BF16":
        return (values & BF16_EXPONENT) == BF16_EXPONENT
    return ~np.isfinite(values)
