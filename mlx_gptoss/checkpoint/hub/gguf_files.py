"""GGUF files: the parts of a model, which are models, and what must be done with them.

Knows names and the first bytes of files, not headers; uses no network.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlx_gptoss.errors import NeedsConversionError
from mlx_gptoss.format.file_names import CONFIG, GGUF, INDEX, ORIGINAL, WEIGHTS
from mlx_gptoss.memory import format_bytes

MAGIC = b"GGUF"
SHARD = re.compile(
    r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})(?P<suffix>\.(?:safetensors|gguf))"
)
# Files that lie beside models: for pictures, and for quantizing.
NO_MODEL = re.compile(r"(.*[/._-])?(mmproj|imatrix)([._-].*)?", re.IGNORECASE)
RESULT_SUFFIX = "-mlx"  # of the folder that is proposed for the result
MOST_LISTED = 60


def list_shards(name: str) -> list[str]:
    """Return the names of all shards of a model, given one of them."""
    found = SHARD.fullmatch(name)
    if found is None:
        return [name]
    count = int(found["count"])
    return [
        f"{found['stem']}-{part:05d}-of-{count:05d}{found['suffix']}"
        for part in range(1, count + 1)
    ]


def first_shards(names: Iterable[str]) -> list[str]:
    """Return the first shard of each model among the names of GGUF files."""
    models = (name for name in names if not NO_MODEL.fullmatch(name))
    return sorted({list_shards(name)[0] for name in models})


def list_models(place: str, firsts: Iterable[str], sizes: Mapping[str, int]) -> str:
    """List models of a folder or repository by their names, in lines with sizes."""
    rows = [
        (f"{place}/{name}", sum(sizes.get(part, 0) for part in list_shards(name)))
        for name in firsts
    ]
    shown = rows[:MOST_LISTED]
    width = max(len(name) for name, _ in shown)
    lines = [f"  {name:{width}}  {format_bytes(size)}" for name, size in shown]
    if len(rows) > len(shown):
        lines.append(f"  and {len(rows) - len(shown)} more")
    return "\n".join(lines)


def is_gguf_file(path: Path) -> bool:
    """Whether a file is a GGUF, by its suffix or its first bytes (Ollama's blobs)."""
    if not path.is_file():
        return False
    if path.suffix == GGUF:
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def has_only_ggufs(folder: Path) -> bool:
    """Whether a folder has GGUF files and no other model.

    A `config.json` alone is none: repositories of GGUFs have the one of their source.
    """
    other = (folder / CONFIG).exists() and (
        (folder / INDEX).exists()
        or any(any(at.glob(WEIGHTS)) for at in (folder, folder / ORIGINAL))
    )
    return not other and bool(ggufs_in(folder))


def ggufs_in(folder: Path) -> dict[str, int]:
    """Return the sizes of a folder's GGUF files by name.

    Without any, those of its subfolders, where repositories keep split models.
    """
    for pattern in (f"*{GGUF}", f"*/*{GGUF}"):
        found = [path for path in folder.glob(pattern) if path.is_file()]
        if found:
            return {str(x.relative_to(folder)): x.stat().st_size for x in found}
    return {}


def needs_conversion(
    source: str, fact: str, name: str, *, is_here: bool = True
) -> NeedsConversionError:
    """Return the error that names the command that makes a source runnable.

    `fact` follows the source's name in the message; the result is called by `name`.
    `is_here` says that the source is on this machine, so that its result can be sized.
    """
    result = f"./{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}{RESULT_SUFFIX}"
    command = shlex.join(["mlx-gptoss", "convert", source, result])
    return NeedsConversionError(
        f"`{source}` {fact}: convert it with `{command}`, then give `{result}`",
        source if is_here else None,
    )


def model_stem(name: str) -> str:
    """Return the name of a GGUF file without its folder, suffix and shard number."""
    found = SHARD.fullmatch(name)
    stem = found["stem"] if found else name.removesuffix(GGUF)
    return stem.rpartition("/")[2]
