"""Check the values of a checkpoint for NaN and infinity.

Some bytes of scales, and of FP8 weights, mean NaN (see `format/block_formats.py`).
Other packed values are always valid: all sixteen codes of FP4 are numbers.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mlx_gptoss.checkpoint.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.tensor_reads import (
    TensorChunk,
    open_files,
    read_values,
    split_into_chunks,
)
from mlx_gptoss.checkpoint.wrong_files import NOT_NUMBERS
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.block_formats import NAN_BYTES
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import BYTES, FLOATS
from mlx_gptoss.format.mxfp4 import E8M0_NAN

BF16_EXPONENT = 0x7F80  # all ones: infinite or NaN


def check_values(
    checkpoint: Checkpoint, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Read every scale and float; raises CheckpointError for the first bad one.

    `progress` is called with (bytes read, total bytes). Peak memory: about 8 MiB.
    """
    quantization = checkpoint.structure.quantization
    tensors = [
        (part, invalid)
        for name, tensor in checkpoint.tensors.items()
        for invalid in [invalid_bytes(name, quantization)]
        if invalid or tensor.dtype in FLOATS
        for part in tensor.parts
    ]
    total = sum(tensor.nbytes for tensor, _ in tensors)
    done = 0
    with open_files(checkpoint.files) as files:
        for tensor, invalid in tensors:
            for chunk in split_into_chunks(tensor):
                values = read_values(files[tensor.file], chunk)
                check_chunk(chunk, values, invalid)
                done += chunk.nbytes
                if progress is not None:
                    progress(done, total)


def invalid_bytes(
    name: str, quantization: Mapping[str, Quantization]
) -> tuple[int, ...]:
    """Return the bytes of a tensor that are no numbers; () if it has floats."""
    path, _, kind = name.rpartition(".")
    setting = quantization.get(path)
    return () if setting is None else NAN_BYTES.get(setting.mode, {}).get(kind, ())


def check_chunk(
    chunk: TensorChunk, values: np.ndarray, invalid: tuple[int, ...] = ()
) -> None:
    """Raise CheckpointError for `invalid` bytes, or floats that are not finite."""
    if invalid:
        bad = np.isin(values.view(np.uint8), invalid)
        bad = bad.reshape(len(values), -1).any(axis=1)
    else:
        bad = mark_invalid(chunk.tensor.dtype, values)
    if not bad.any():
        return
    tensor = chunk.tensor
    flat = chunk.start + int(bad.argmax())
    place = tuple(int(i) for i in np.unravel_index(flat, tensor.shape))
    what = "a non-finite value"
    if invalid:
        shown = " or ".join(map(str, invalid))
        what = f"a byte of {shown} (NaN)"
        if tensor.dtype in BYTES:
            what = f"a scale of {shown} (NaN)"
    raise CheckpointError(
        f"tensor `{tensor.name}` in `{tensor.file}` has {what} at {place}: "
        f"{NOT_NUMBERS}"
    )


def mark_invalid(dtype: str, values: np.ndarray) -> np.ndarray:
    """Return a mask of NaN and infinite values."""
    if dtype in BYTES:
        return values == E8M0_NAN
    if dtype == "BF16":
        return (values & BF16_EXPONENT) == BF16_EXPONENT
    return ~np.isfinite(values)
