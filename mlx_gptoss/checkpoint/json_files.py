"""Read small JSON objects beside the weights."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint.wrong_files import CUT_SHORT, describe_start
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.file_names import WEIGHTS

MAX_JSON_BYTES = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ConfigError naming the file."""
    raw = b""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConfigError(f"`{path}` is larger than {MAX_JSON_BYTES} bytes")
        raw = path.read_bytes()
        value = json.loads(raw)
    except OSError as error:
        raise ConfigError(f"cannot read `{path}`: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"`{path}` {describe_fault(raw, error)}") from error
    if not isinstance(value, dict):
        raise ConfigError(
            f"`{path}` is not a JSON object but {type(value).__name__}: take the "
            f"`{path.name}` that was saved with these weights"
        )
    return value


def describe_fault(raw: bytes, error: Exception) -> str:
    """Say what is wrong with text that is not JSON, and what to do."""
    known = describe_start(raw)
    if known is not None:
        return known
    said = f"is not valid JSON ({error})"
    end = len(raw.rstrip())
    ended = isinstance(error, json.JSONDecodeError) and (
        error.pos >= end or "Unterminated" in error.msg
    )
    if ended:  # text and bytes agree where JSON is plain, as these files are
        return f"{said}: {CUT_SHORT}"
    return f"{said}: correct it there, or take the one saved with these weights"


def is_stale_index(folder: Path, shards: Iterable[str]) -> bool:
    """Whether an index names none of a folder's weight files, but has others beside it.

    `shards` are the names of files in the index. One with a name that no shard can have
    is damaged, not stale.
    """
    for name in shards:
        if not is_shard_name(name) or os.path.exists(folder / name):
            return False
    return any(path.exists() for path in folder.glob(f"model{WEIGHTS}"))


def is_shard_name(name: object) -> bool:
    """Whether this is the name of a safetensors file, and not a path."""
    plain = isinstance(name, str) and Path(name).name == name and "\\" not in name
    return plain and str(name).endswith(".safetensors")


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} for a file that is missing or damaged."""
    try:
        return read_json(path)
    except ConfigError:
        return {}
