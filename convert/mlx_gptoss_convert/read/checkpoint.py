"""Open the source of a conversion: a checkpoint folder, a safetensors file, or a GGUF.

Reads headers, and the small float32 tensors of a GGUF.
"""

from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.hub.gguf_files import (
    first_shards,
    ggufs_in,
    has_only_ggufs,
    is_gguf_file,
    list_models,
    list_shards,
)
from mlx_gptoss.checkpoint.notices import list_file_notices
from mlx_gptoss.errors import CheckpointError, ConversionError
from mlx_gptoss_convert.read.companions import (
    CompanionFiles,
    companion_files,
    companion_paths,
)
from mlx_gptoss_convert.read.gguf import GgufHeader, read_gguf
from mlx_gptoss_convert.read.gguf_checkpoint import (
    gguf_checkpoint,
    list_expert_notices,
)
from mlx_gptoss_convert.read.gguf_names import is_gguf
from mlx_gptoss_convert.read.gguf_settings import require_gpt_oss
from mlx_gptoss_convert.read.gguf_tensors import undecoded_tensor
from mlx_gptoss_convert.read.gguf_tokenizer import (
    TOKENIZER_FILE,
    read_tokenizer,
)
from mlx_gptoss_convert.read.packed_forms import decode_form
from mlx_gptoss_convert.read.source import SourceTensor

SPLIT_COUNT = "split.count"  # llama.cpp's metadata in every part


@dataclass(frozen=True)
class ConversionSource:
    """A checkpoint to convert and its companion files."""

    checkpoint: Checkpoint
    files: CompanionFiles
    gguf_notices: tuple[str, ...] = ()  # on tensors of a GGUF

    @property
    def notes(self) -> list[str]:
        """Remarks for the user on the checkpoint and its companion files."""
        if is_gguf(self.checkpoint):
            return [*self.gguf_notices, *self.files.notes]
        return [*list_file_notices(self.checkpoint), *self.files.notes]


def open_source(
    path: Path, *, tokenizer: Path | None = None, classifier: bool | None = False
) -> ConversionSource:
    """Open a checkpoint in any supported format.

    `classifier` is that of `open_checkpoint`. `tokenizer`, a `tokenizer.json` or a
    folder with one, replaces the source's. Raises CheckpointError or ConfigError for
    the first fault found.
    """
    ggufs = find_gguf_files(path)
    if not ggufs:
        checkpoint = open_checkpoint(path, decode=decode_form, classifier=classifier)
        files = companion_files(checkpoint.folder)
        return ConversionSource(checkpoint, with_tokenizer(files, tokenizer))
    parts = [read_gguf(part) for part in ggufs]
    require_gpt_oss(parts[0].metadata, parts[0].path.name)
    check_split(parts)
    files = CompanionFiles({}, ())
    if tokenizer is None:
        texts = read_tokenizer(parts[0].metadata, parts[0].path.name)
        files = CompanionFiles(texts, ())
    files = with_tokenizer(files, tokenizer)
    notices = tuple(list_expert_notices(parts))
    return ConversionSource(gguf_checkpoint(parts, files), files, notices)


def with_tokenizer(files: CompanionFiles, tokenizer: Path | None) -> CompanionFiles:
    """Replace the tokenizer, and its companions if `tokenizer` is a folder."""
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
    """List the GGUF files `path` refers to: none, one, or all parts of one model."""
    if path.is_dir():
        sizes = ggufs_in(path) if has_only_ggufs(path) else {}
        models = first_shards(sizes)
        if len(models) > 1:
            raise CheckpointError(
                f"`{path}` has {len(models)} models as GGUF: give one file\n"
                + list_models(str(path), models, sizes)
            )
        return all_parts(path / models[0]) if models else []
    return all_parts(path) if is_gguf_file(path) else []


def all_parts(path: Path) -> list[Path]:
    """List the parts of a model split into several files, in order."""
    parts = [path.parent / name for name in list_shards(path.name)]
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"`{missing[0]}` is missing ({len(parts)} parts are needed): download it"
        )
    return parts


def check_split(parts: list[GgufHeader]) -> None:
    """Raise CheckpointError for a part of a model that its name does not give away."""
    first = parts[0]
    count = first.metadata.get(SPLIT_COUNT, 1)
    if isinstance(count, int) and count > len(parts):
        raise CheckpointError(
            f"`{first.path}` is one of {count} parts of a model: give all of them the "
            f"names they were published with (NAME-00001-of-{count:05d}.gguf), in one "
            "folder"
        )


def tensors_in_files(checkpoint: Checkpoint) -> dict[str, SourceTensor]:
    """Return every tensor under its name in the file, without any decoding."""
    if not is_gguf(checkpoint):
        return {
            checkpoint.layout.stored_name(name): SourceTensor.from_checkpoint(
                name, tensor
            )
            for name, tensor in checkpoint.tensors.items()
        }
    found = [x for path in checkpoint.files for x in read_gguf(path).tensors.values()]
    return {tensor.name: undecoded_tensor(tensor) for tensor in found}
