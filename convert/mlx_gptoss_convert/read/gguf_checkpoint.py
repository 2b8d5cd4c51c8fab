"""Present a GGUF as a checkpoint: its config, and its tensors in safetensors' dtypes.

Reads the headers given and the small float32 tensors; decodes nothing else.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping

from mlx_gptoss.checkpoint import Checkpoint, StoredTensor
from mlx_gptoss.checkpoint.matching import TensorMatch, match_tensors
from mlx_gptoss.checkpoint.mismatch import explain_sizes
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import MXFP4 as MXFP4_SETTING
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import GENERATION_CONFIG
from mlx_gptoss.format.layout import BITS_PER_WORD, DTYPE_BYTES
from mlx_gptoss_convert.read.companions import CompanionFiles
from mlx_gptoss_convert.read.gguf import GgufHeader, GgufTensor
from mlx_gptoss_convert.read.gguf_names import GGUF, config_from_metadata, is_known
from mlx_gptoss_convert.read.gguf_types import (
    F32,
    F32_AS_BF16,
    MXFP4,
    MXFP4_BLOCKS,
    MXFP4_SCALES,
    Q8_0,
    Q8_0_FLOATS,
    BlockDecoder,
    is_bfloat16,
)
from mlx_gptoss_convert.read.source import DecodedTensor, SourceTensor, TensorReader

EMBEDDING = "token_embd.weight"


def gguf_checkpoint(parts: list[GgufHeader], files: CompanionFiles) -> Checkpoint:
    """Present a GGUF as a checkpoint with separate gate and up projections."""
    first = parts[0]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    if EMBEDDING not in tensors:
        raise CheckpointError(
            f"`{first.path}` has no `{EMBEDDING}`: give a GGUF of gpt-oss"
        )
    raw = config_from_metadata(
        first.metadata, tensors[EMBEDDING].shape[0], first.path.name
    ) | eos_setting(first, files)
    config = ModelConfig.from_dict(raw)
    stored = {seen.name: seen for seen in stored_tensors(tensors.values())}
    match = match_gguf(stored, config)
    return Checkpoint(
        folder=first.path.parent,
        files=tuple(part.path for part in parts),
        raw_config=raw,
        config=config,
        layout=GGUF,
        structure=match.structure,
        tensors=match.tensors,
    )


def match_gguf(stored: Mapping[str, StoredTensor], config: ModelConfig) -> TensorMatch:
    try:
        return match_tensors(stored, config, GGUF, {})
    except CheckpointError as error:
        reason = explain_sizes(config, GGUF, stored)
        name = next((name for name in sorted(stored) if not is_known(name)), None)
        if name is not None:
            reason = (
                f"tensor `{name}` in `{stored[name].file}` has no name of llama.cpp's "
                "gpt-oss: use a GGUF made by its `convert_hf_to_gguf.py`"
            )
        if reason is None:
            raise
        raise CheckpointError(reason) from error


def eos_setting(part: GgufHeader, files: CompanionFiles) -> dict[str, object]:
    """Return `eos_token_id` from the generation config, else from the metadata."""
    raw = files.read(GENERATION_CONFIG)
    found = None if raw is None else json.loads(raw).get("eos_token_id")
    if found is None:
        found = part.metadata.get("tokenizer.ggml.eos_token_id")
    return {} if found is None else {"eos_token_id": found}


def stored_tensors(tensors: Iterable[GgufTensor]) -> Iterator[StoredTensor]:
    """Present every tensor in a dtype of safetensors, decoded where ggml's differs.

    float32 tensors are presented as bfloat16 if all their values are bfloat16, so that
    tensors widened by llama.cpp's converter come back as the same bytes.
    """
    found = list(tensors)
    all_bfloat16 = holds_bfloat16(
        [tensor for tensor in found if tensor.ggml_type == F32]
    )
    for tensor in found:
        if tensor.ggml_type == MXFP4:
            yield from mxfp4_tensors(tensor)
        elif tensor.ggml_type == Q8_0:
            yield decoded_tensor(tensor, "F32", tensor.shape, Q8_0_FLOATS)
        elif tensor.ggml_type == F32 and all_bfloat16:
            yield decoded_tensor(tensor, "BF16", tensor.shape, F32_AS_BF16)
        else:
            yield StoredTensor(
                tensor.name,
                tensor.file,
                tensor.ggml_type.name,
                tensor.shape,
                tensor.offset,
                tensor.nbytes,
            )


def mxfp4_tensors(tensor: GgufTensor) -> Iterator[DecodedTensor]:
    """Present one stack of experts as MLX's weight and scales."""
    *rows, columns = tensor.shape
    words = columns * MXFP4_SETTING.bits // BITS_PER_WORD
    yield decoded_tensor(tensor, "U32", (*rows, words), MXFP4_BLOCKS)
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
