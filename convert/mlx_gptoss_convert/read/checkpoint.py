"""Open whatever a conversion takes: a checkpoint's folder, its file, or a GGUF.

Reads headers, and of a GGUF the small tensors kept as float32: those that hold nothing
that bfloat16 does not are seen as bfloat16, which is what they were made of.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from mlx_gptoss.checkpoint.folder import CONFIG
from mlx_gptoss.checkpoint.matching import Match, match_tensors
from mlx_gptoss.checkpoint.mismatch import explain_sizes
from mlx_gptoss.checkpoint.notices import remarks
from mlx_gptoss.errors import CheckpointError, ConversionError
from mlx_gptoss.format.config import MXFP4 as MXFP4_SETTING
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import BITS_PER_WORD, DTYPE_BYTES
from mlx_gptoss_convert.read.companions import (
    CompanionFiles,
    companion_files,
    companion_paths,
)
from mlx_gptoss_convert.read.gguf import (
    F32,
    MXFP4,
    Q8_0,
    GgufHeader,
    GgufTensor,
    read_gguf,
)
from mlx_gptoss_convert.read.gguf_names import GGUF, config_from_metadata, is_known
from mlx_gptoss_convert.read.gguf_tokenizer import (
    GENERATION_FILE,
    TOKENIZER_FILE,
    read_tokenizer,
)
from mlx_gptoss_convert.read.gguf_types import (
    F32_AS_BF16,
    MXFP4_BLOCKS,
    MXFP4_SCALES,
    Q8_0_FLOATS,
    BlockDecoder,
    is_bfloat16,
)
from mlx_gptoss_convert.read.source import DecodedTensor, SourceTensor, TensorReader

SUFFIX = ".gguf"
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
EMBEDDING = "token_embd.weight"


@dataclass(frozen=True)
class ConversionSource:
    """A checkpoint to convert, and the small files that go with it."""

    checkpoint: Checkpoint
    files: CompanionFiles

    @property
    def notes(self) -> list[str]:
        """What a user should know of the source and its small files."""
        if self.checkpoint.layout is GGUF:
            return list(self.files.notes)
        return [*remarks(self.checkpoint), *self.files.notes]


def open_source(path: Path, *, tokenizer: Path | None = None) -> ConversionSource:
    """Open a checkpoint in any form. `tokenizer` is a file or a folder with one.

    Raises CheckpointError or ConfigError for the first thing that is wrong.
    """
    ggufs = find_gguf_files(path)
    if not ggufs:
        checkpoint = open_checkpoint(path)
        files = companion_files(checkpoint.folder)
        return ConversionSource(checkpoint, with_tokenizer(files, tokenizer))
    parts = [read_gguf(part) for part in ggufs]
    files = CompanionFiles({}, ())
    if tokenizer is None:
        texts = read_tokenizer(parts[0].metadata, parts[0].path.name)
        files = CompanionFiles(texts, ())
    files = with_tokenizer(files, tokenizer)
    return ConversionSource(gguf_checkpoint(parts, files), files)


def with_tokenizer(files: CompanionFiles, tokenizer: Path | None) -> CompanionFiles:
    """Put the given tokenizer, and what lies with it, in place of the source's."""
    if tokenizer is None:
        return files
    if tokenizer.is_file():
        return files.with_texts({TOKENIZER_FILE: tokenizer.read_bytes()}).cleaned()
    if not (tokenizer / TOKENIZER_FILE).is_file():
        raise ConversionError(
            f"`{tokenizer}` has no `{TOKENIZER_FILE}`: give the file, or its folder"
        )
    found = companion_paths(tokenizer)
    texts = {path.name: path.read_bytes() for path in found}
    return files.with_texts(texts).cleaned()


def find_gguf_files(path: Path) -> list[Path]:
    """List the GGUF files that `path` stands for: none, one, or all parts of one."""
    if path.is_dir() and not (path / CONFIG).is_file():
        found = sorted(path.glob(f"*{SUFFIX}"))
        wholes = {SHARD.sub(r"\1", part.name) for part in found}
        if len(wholes) > 1:
            raise CheckpointError(
                f"`{path}` holds {len(wholes)} models as GGUF: give one file"
            )
        return all_parts(found[0]) if found else []
    return all_parts(path) if path.is_file() and path.suffix == SUFFIX else []


def all_parts(path: Path) -> list[Path]:
    """List every part of a model that is cut into files, in order."""
    found = SHARD.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found[2])
    names = [f"{found[1]}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"`{path.parent / missing[0]}` is missing ({count} parts are needed): "
            "download it"
        )
    return [path.parent / name for name in names]


def gguf_checkpoint(parts: list[GgufHeader], files: CompanionFiles) -> Checkpoint:
    """See a GGUF as a checkpoint with gate and up apart."""
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


def match_gguf(stored: Mapping[str, StoredTensor], config: ModelConfig) -> Match:
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
    """Say which tokens end a turn, from the file and what goes with it."""
    raw = files.read(GENERATION_FILE)
    found = None if raw is None else json.loads(raw).get("eos_token_id")
    if found is None:
        found = part.metadata.get("tokenizer.ggml.eos_token_id")
    return {} if found is None else {"eos_token_id": found}


def stored_tensors(tensors: Iterable[GgufTensor]) -> Iterator[StoredTensor]:
    """See every tensor in the dtype and the bytes of a checkpoint of ours.

    float32 is seen as bfloat16 where none of it holds more than that.
    """
    found = list(tensors)
    is_narrow = holds_bfloat16([tensor for tensor in found if tensor.ggml_type == F32])
    for tensor in found:
        if tensor.ggml_type == MXFP4:
            yield from mxfp4_tensors(tensor)
        elif tensor.ggml_type == Q8_0:
            yield decoded_tensor(tensor, "F32", tensor.shape, Q8_0_FLOATS)
        elif tensor.ggml_type == F32 and is_narrow:
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
    """See one stack of experts as MLX's weight and scales."""
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


def tensors_in_files(checkpoint: Checkpoint) -> dict[str, SourceTensor]:
    """Find every tensor under its name in the file, as the bytes that lie there."""
    if checkpoint.layout is not GGUF:
        return {
            checkpoint.layout.stored_name(name): SourceTensor.from_checkpoint(
                name, tensor
            )
            for name, tensor in checkpoint.tensors.items()
        }
    found = [x for path in checkpoint.files for x in read_gguf(path).tensors.values()]
    return {tensor.name: undecoded(tensor) for tensor in found}


def undecoded(tensor: GgufTensor) -> SourceTensor:
    name, kind, shape = tensor.name, tensor.ggml_type, tensor.shape
    if kind.block == 1:
        return SourceTensor(name, kind.name, shape, tensor.file, tensor.offset)
    rows = math.prod(shape[:-1])
    size = shape[-1] // kind.block * kind.nbytes
    return SourceTensor(name, "U8", (rows, size), tensor.file, tensor.offset)
