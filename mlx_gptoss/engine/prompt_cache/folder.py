"""The folder of saved prompts of all models: sizes, and removal by age."""

from pathlib import Path

from mlx_gptoss.engine.prompt_cache.options import default_folder
from mlx_gptoss.files import storage_errors

SUFFIX = ".safetensors"


def shrink_files(max_bytes: int, root: Path | None = None) -> int:
    """Remove the least recently used prompts until `max_bytes` are left; 0 keeps none.

    Returns the freed bytes. Raises StorageError.
    """
    return remove_oldest(root or default_folder(), max_bytes)[1]


def clear_files(root: Path | None = None) -> int:
    """Remove the saved prompts of all models; return the freed bytes.

    A running process that knows one of them computes it again.
    """
    return shrink_files(0, root)


def remove_oldest(root: Path, max_bytes: int) -> tuple[list[Path], int]:
    """Remove the oldest files beyond `max_bytes`; return them and their bytes."""
    ages = by_age(root)
    excess = sum(size for _, _, size in ages) - max_bytes
    removed: list[Path] = []
    freed = 0
    for _, path, size in ages:
        if freed >= excess:
            break
        with storage_errors(path, "removed"):
            path.unlink(missing_ok=True)
        freed += size
        removed.append(path)
    return removed, freed


def by_age(root: Path) -> list[tuple[int, Path, int]]:
    """Return (mtime in ns, path, bytes), least recently used first.

    Of files with the same time, those of later tokens come first.
    """
    ages: list[tuple[int, Path, int]] = []
    for path in root.glob(f"*/*{SUFFIX}"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # another process removed it
            continue
        ages.append((facts.st_mtime_ns, path, facts.st_size))
    by_start = sorted(ages, key=lambda one: one[1].name, reverse=True)
    return sorted(by_start, key=lambda one: one[0])
