"""Find the files of a checkpoint: `config.json`, the index and the shards.

Reads names, small JSON files and headers, but no weights. An index decides which files
are read; one that names none of those that are there is stale, and ignored.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint.adapters.recognize import adapter_files, describe_adapter
from mlx_gptoss.checkpoint.json_files import is_shard_name, is_stale_index, read_json
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor, read_header
from mlx_gptoss.errors import CheckpointError, ConfigError
from mlx_gptoss.format.file_names import CONFIG, GGUF, INDEX
from mlx_gptoss.format.foreign_files import describe_runtime

DTYPES = "dtypes.json"  # beside OpenAI's original weights
STORED_DTYPES = {"BF16": "BF16", "FP4": "U8", "UE8": "U8"}

SHARD = re.compile(r".*-(\d+)-of-(\d+)\.safetensors")

# Weight formats that are not read, by suffix, and the remedy.
UNSUPPORTED = {
    GGUF: "a GGUF is converted first (`mlx-gptoss convert SRC DST`)",
    ".bin": "pickled weights and model.bin are not read, for safety",
    ".pt": "pickled weights are not read, for safety",
    ".pth": "pickled weights are not read, for safety",
    ".npz": "npz files are not read",
}


@dataclass(frozen=True)
class CheckpointFiles:
    """A folder with a config, and the safetensors files with its weights."""

    folder: Path
    weights: tuple[Path, ...]
    index: Mapping[str, str] | None
    notes: tuple[str, ...] = ()


def find_files(path: Path) -> CheckpointFiles:
    """Find the files of a checkpoint, given its folder or its only weight file.

    A folder without weights of its own but with `original/` means that subfolder.
    """
    if path.is_file():
        return find_single_file(path)
    if not path.is_dir():
        raise CheckpointError(f"`{path}` does not exist: give a checkpoint's folder")
    folder = path
    if not has_weights(path) and has_weights(path / "original"):
        folder = path / "original"
    weights = find_weights(folder)
    adapter = describe_adapter(folder)
    if adapter is not None and set(weights) <= set(adapter_files(folder)):
        raise CheckpointError(f"`{folder}` is {adapter}")
    runtime = describe_runtime([path.name for path in folder.iterdir()])
    if runtime is not None and not weights:
        raise CheckpointError(f"`{folder}` {runtime}")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"`{folder}` has no `{CONFIG}`{describe_folder(folder)}")
    notes: tuple[str, ...] = ()
    if (folder / INDEX).is_file():
        index = read_index(folder / INDEX)
        names = sorted(set(index.values()))
        if not is_stale_index(folder, names):
            files = tuple(folder / name for name in names)
            return CheckpointFiles(folder, files, index)
        notes = (f"`{INDEX}` names files that are not here: not read",)
    if not weights:
        raise CheckpointError(
            f"`{folder}` has no `*.safetensors`{describe_unsupported(folder)}"
        )
    check_shard_numbers(weights)
    return CheckpointFiles(folder, tuple(weights), None, notes)


def find_weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors")) or sorted(
        folder.glob("*.safetensors")
    )


def check_shard_numbers(weights: list[Path]) -> None:
    """Require that files numbered "of N" have no gap; they may start at 0 or 1."""
    found = [SHARD.fullmatch(path.name) for path in weights]
    numbers = {int(match[1]) for match in found if match}
    lasts = {int(match[2]) for match in found if match}
    if len(lasts) != 1:
        return
    missing = sorted(set(range(1, max(lasts) + 1)) - numbers)
    if missing:
        raise CheckpointError(
            f"shard {missing[0]} of {max(lasts)} is missing from "
            f"`{weights[0].parent}`: download it"
        )


def describe_folder(folder: Path) -> str:
    """Describe a folder without a config, as the end of a message."""
    if any(folder.glob(f"*{GGUF}")):
        return f" but a GGUF: convert it with `mlx-gptoss convert {folder} DST`"
    if find_weights(folder):
        return ": copy the one that was saved with these weights into it"
    runs = sorted(folder.glob(f"checkpoint-*/{CONFIG}"))
    if runs:
        return f": give one of the checkpoints in it, such as `{runs[-1].parent}`"
    return ": give a checkpoint's folder"


def has_weights(folder: Path) -> bool:
    return (folder / INDEX).is_file() or any(folder.glob("*.safetensors"))


def find_single_file(path: Path) -> CheckpointFiles:
    """Accept one safetensors file that has its config beside it."""
    if path.suffix != ".safetensors":
        known = describe_runtime([path.name])
        if known is not None:
            raise CheckpointError(f"`{path}` {known}")
        reason = UNSUPPORTED.get(path.suffix, "it is not a safetensors file")
        raise CheckpointError(f"cannot load `{path}`: {reason}; give a folder")
    if path in adapter_files(path.parent):
        raise CheckpointError(f"`{path}` is {describe_adapter(path.parent)}")
    if not (path.parent / CONFIG).is_file():
        raise CheckpointError(
            f"`{path}` has no `{CONFIG}` beside it: give a checkpoint's folder"
        )
    index = path.parent / INDEX
    if index.is_file() and path.name in read_index(index).values():
        return find_files(path.parent)
    return CheckpointFiles(path.parent, (path,), None)


def describe_unsupported(folder: Path) -> str:
    """Describe weights in other formats, as the end of a message."""
    for suffix, reason in UNSUPPORTED.items():
        if any(folder.glob(f"*{suffix}")):
            return f" but `*{suffix}`: {reason}; download the safetensors files"
    return ": download the weights"


def read_index(path: Path) -> dict[str, str]:
    """Map tensors to shards; a shard must be a file name, not a path."""
    try:
        weight_map = read_json(path).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"`{path}` has no `weight_map`, so it is no index: remove it, "
            "the files themselves are read"
        )
    for tensor, name in weight_map.items():
        if not is_shard_name(name):
            raise CheckpointError(
                f"`{path}` places tensor `{tensor}` in {name!r}, expected the name of "
                "a safetensors file in the same folder: do not use this checkpoint"
            )
    return weight_map


def read_headers(files: CheckpointFiles) -> dict[str, StoredTensor]:
    """Read and join all headers; raises CheckpointError for contradictions."""
    for path in files.weights:
        if not path.is_file():
            raise CheckpointError(
                f"shard `{path}` is missing ({len(files.weights)} are needed): "
                "download it"
            )
    tensors: dict[str, StoredTensor] = {}
    for path in files.weights:
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor `{name}` is in `{tensors[name].file.name}` and again in "
                    f"`{path.name}` of `{path.parent}`: remove the file that does not "
                    "belong there"
                )
            tensors[name] = tensor
    check_dtypes(files.folder, tensors)
    return tensors


def describe_index_fault(
    files: CheckpointFiles, tensors: Mapping[str, StoredTensor]
) -> str | None:
    """Describe the first contradiction between the index and the files, if any."""
    for name, shard in (files.index or {}).items():
        if name not in tensors:
            return (
                f"tensor `{name}` is nowhere, `{files.folder / INDEX}` says `{shard}`"
            )
        found = tensors[name].file.name
        if found != shard:
            return (
                f"tensor `{name}` is in `{found}`, `{files.folder / INDEX}` says "
                f"`{shard}`"
            )
    return None


def check_dtypes(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Compare with `dtypes.json`, which OpenAI publishes beside the weights."""
    if not (folder / DTYPES).is_file():
        return
    for name, kind in read_json(folder / DTYPES).items():
        expected = STORED_DTYPES.get(kind) if isinstance(kind, str) else None
        if name in tensors and tensors[name].dtype != expected:
            raise CheckpointError(
                f"tensor `{name}` in `{tensors[name].file.name}` has dtype "
                f"{tensors[name].dtype}, `{folder / DTYPES}` says {kind!r}: it "
                "belongs to other weights (these were converted since, or are another "
                "model's), remove it"
            )
