"""The file of one saved prompt: names, checksum and writing of its tensors."""

import errno
import hashlib
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.prompt_cache.folder import SUFFIX

FORMAT = "mlx-gptoss prompt 1"
START_DIGITS = 9
KEY_BYTES = 16
TOKENS = "tokens"  # name of the tensor of token ids (L,) int32
FULL, WINDOW = "full", "window"  # kinds of layers, in names of tensors

Arrays = dict[str, mx.array]


def file_name(tokens: np.ndarray, start: int) -> str:
    key = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=KEY_BYTES)
    return f"{start:0{START_DIGITS}}-{key.hexdigest()}{SUFFIX}"


def tensor_names(kind: str, layer: int) -> tuple[str, str]:
    return f"{kind}.{layer}.keys", f"{kind}.{layer}.values"


def dtype_and_shape(x: mx.array) -> tuple[object, ...]:
    return (x.dtype, *x.shape)


def checksum(arrays: Arrays) -> str:
    """CRC-32 over the bytes of all tensors, by name."""
    mx.eval(arrays)
    total = 0
    for name in sorted(arrays):
        x = arrays[name]
        flat = x.flatten().view(mx.uint8) if x.size else mx.zeros((0,), mx.uint8)
        total = zlib.crc32(np.asarray(flat).data, total)
    return f"{total:08x}"


def save_arrays(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write a file. Raises OSError."""
    try:
        with path.open("wb") as file:  # of a path MLX would not say why it failed
            mx.save_safetensors(file, arrays, metadata)
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
