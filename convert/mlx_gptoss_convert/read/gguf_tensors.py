"""Present the tensors of a GGUF in safetensors' dtypes, decoded where ggml's differ.

Reads the small float32 tensors; decodes nothing else.
"""

import math
from collections.abc import Iterable, Iterator

from mlx_gptoss.checkpoint import StoredTensor
from mlx_gptoss.checkpoint.decoded_tensor import DecodedTensor
from mlx_gptoss.format.config import MXFP4 as MXFP4_SETTING
from mlx_gptoss.format.layout import BITS_PER_WORD, DTYPE_BYTES
from mlx_gptoss_convert.read.gguf import GgufTensor
from mlx_gptoss_convert.read.gguf_blocks import (
    F32_AS_BF16,
    MXFP4_BLOCKS,
    MXFP4_SCALES,
    OLLAMA_BLOCKS,
    BlockDecoder,
    is_bfloat16,
)
from mlx_gptoss_convert.read.gguf_decoders import DECODERS
from mlx_gptoss_convert.read.gguf_nvfp4 import nvfp4_tensor
from mlx_gptoss_convert.read.gguf_types import F32, MXFP4, NVFP4, OLLAMA_MXFP4
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader

MXFP4_DECODERS = {MXFP4: MXFP4_BLOCKS, OLLAMA_MXFP4: OLLAMA_BLOCKS}


def stored_tensors(tensors: Iterable[GgufTensor]) -> Iterator[StoredTensor]:
    """Present every tensor in a dtype of safetensors, decoded where ggml's differs.

    MXFP4 becomes MLX's words and scales, other quantized types bfloat16. float32 is
    presented as bfloat16 if all such values are bfloat16, so that tensors widened by
    llama.cpp's converter come back as the same bytes.
    """
    found = list(tensors)
    all_bfloat16 = holds_bfloat16(
        [tensor for tensor in found if tensor.ggml_type == F32]
    )
    for tensor in found:
        kind = tensor.ggml_type
        if kind in MXFP4_DECODERS:
            yield from mxfp4_tensors(tensor, MXFP4_DECODERS[kind])
        elif kind == NVFP4:
            yield nvfp4_tensor(tensor)
        elif kind.name in DECODERS:
            yield decoded_tensor(tensor, "BF16", tensor.shape, DECODERS[kind.name])
        elif kind == F32 and all_bfloat16:
            yield decoded_tensor(tensor, "BF16", tensor.shape, F32_AS_BF16)
        else:
            yield StoredTensor(
                tensor.name,
                tensor.file,
                kind.name,
                tensor.shape,
                tensor.offset,
                tensor.nbytes,
            )


def mxfp4_tensors(tensor: GgufTensor, view: BlockDecoder) -> Iterator[DecodedTensor]:
    """Present one stack of experts as MLX's weight and scales."""
    *rows, columns = tensor.shape
    words = columns * MXFP4_SETTING.bits // BITS_PER_WORD
    yield decoded_tensor(tensor, "U32", (*rows, words), view)
    name = tensor.name.removesuffix(".weight") + ".scales"
    groups = (*rows, columns // MXFP4_SETTING.group_size)
    yield decoded_tensor(tensor, "U8", groups, MXFP4_SCALES, name)


def decoded_tensor(
    tensor: GgufTensor,
    dtype: str,
    shape: tuple[int, ...],
    view: BlockDecoder,
    name: str = "",
) -> DecodedTensor:
    return DecodedTensor(
        name=name or tensor.name,
        file=tensor.file,
        dtype=dtype,
        shape=shape,
        offset=tensor.offset,
        nbytes=math.prod(shape) * DTYPE_BYTES[dtype],
        decoder=view,
    )


def holds_bfloat16(tensors: list[GgufTensor]) -> bool:
    """Whether every value of these float32 tensors is exactly a bfloat16 value."""
    with TensorReader() as source:
        return all(
            is_bfloat16(raw)
            for tensor in tensors
            for raw in source.slices(
                SourceTensor(
                    tensor.name, "F32", tensor.shape, tensor.file, tensor.offset
                )
            )
        )


def undecoded_tensor(tensor: GgufTensor) -> SourceTensor:
    """Present a tensor as the bytes in the file, one row of blocks per row."""
    name, kind, shape = tensor.name, tensor.ggml_type, tensor.shape
    if kind.block == 1:
        return SourceTensor(name, kind.name, shape, tensor.file, tensor.offset)
    rows = math.prod(shape[:-1])
    size = shape[-1] // kind.block * kind.nbytes
    return SourceTensor(name, "U8", (rows, size), tensor.file, tensor.offset)
