"""Model folders on this machine: names, completeness, kinds.

Reads only small JSON files; uses no network.
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint.hub.gguf_files import (
    has_only_ggufs,
    is_gguf_file,
    list_shards,
    model_stem,
    needs_conversion,
)
from mlx_gptoss.checkpoint.hub.other_apps import (
    find_app_model,
    is_app_name,
    plain_name,
)
from mlx_gptoss.checkpoint.json_files import is_stale_index, read_json_or_empty
from mlx_gptoss.errors import HubError
from mlx_gptoss.format.file_names import CONFIG, GGUF, INDEX, ORIGINAL, WEIGHTS

LOGGER = logging.getLogger(__name__)

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[2] / "demo"
# The Hub's own rule: no `--`, no `..`, no `-` or `.` at either end, 96 characters.
ID_PART = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
HUB_ID = re.compile(rf"(?!.*(?:--|\.\.))(?=.{{3,96}}$){ID_PART}/{ID_PART}", re.ASCII)
PATH_STARTS = ("./", "../", "~", "/")

MODEL_TYPE, CLASSIFIER_TYPE = MODEL_TYPES = ("gpt_oss", "openai_privacy_filter")
WEIGHT_SUFFIXES = (".safetensors", GGUF)
# Weights in formats that are not read: a folder with them is a model all the same.
OTHER_SUFFIXES = (".bin", ".pt", ".pth", ".npz")
RUNS = "checkpoint-*"  # of a trainer, in its output folder
UNKNOWN_KIND = "unknown"  # the kind of a model whose config.json is not yet downloaded
SIZES_BY_EXPERTS = {32: "20b", 128: "120b"}


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine; `last_used` is seconds since 1970, None for the demo."""

    name: str
    path: Path
    bytes: int
    kind: str
    last_used: float | None
    complete: bool
    missing: int | None = None  # bytes, if incomplete and known


def is_path(model: str) -> bool:
    """Whether `model` is written as a path: `./x`, `../x`, `~/x` or absolute."""
    return model in (".", "..") or model.startswith(PATH_STARTS)


def local_folder(model: str) -> Path | None:
    """Return the folder of `demo`, a path or a local folder; None for a Hub id.

    `a/b` could be both: a local folder with weights takes precedence, with a warning.
    """
    meant, remark = resolve_spelling(model)
    if meant != model:
        LOGGER.warning("%s", remark)
    return explicit_folder(meant)


def resolve_spelling(model: str) -> tuple[str, str | None]:
    """Spell a local folder with weights as a path; also return a one-line remark."""
    if HUB_ID.fullmatch(model) and is_empty_folder(model):
        return model, (
            f"the folder `{model}` here holds no weights: the Hub's model of that name "
            "is meant"
        )
    if is_path(model) or not is_weights_here(model):
        return model, None
    if model == DEMO:
        return model, "`demo` is the built-in model: for the folder here write `./demo`"
    what = "folder" if Path(model).is_dir() else "file"
    if HUB_ID.fullmatch(model):
        return f"./{model}", (
            f"`{model}` is a {what} here, and goes before the Hub's model of that "
            f"name: write `./{model}` to say so"
        )
    return f"./{model}", f"`{model}` is a {what} here: taken as `./{model}`"


def explicit_folder(model: str) -> Path | None:
    """Return the folder of `demo`, a path as written or an app; None for a Hub id."""
    if model == DEMO:
        return DEMO_FOLDER
    if is_app_name(model):
        return require_app_folder(model)
    if not is_path(model):
        require_hub_id(model)
        return None
    return require_folder(model)


def is_weights_here(model: str) -> bool:
    """Whether a name is a local folder with weights, or a local model file."""
    path = Path(model)
    try:
        named = path.suffix in WEIGHT_SUFFIXES or path.name in (CONFIG, INDEX)
        if named and path.is_file():
            return True
        return bool(model) and path.is_dir() and holds_weights(path)
    except (OSError, ValueError):  # a name too long or invalid for a path
        return False


def holds_weights(folder: Path) -> bool:
    """Whether a folder has weights, complete or not, in any format."""
    suffixes = WEIGHT_SUFFIXES + OTHER_SUFFIXES
    return any(
        any(path.suffix in suffixes or path.name == INDEX for path in found)
        for found in map(folder.glob, ("*", f"{ORIGINAL}/*", f"{RUNS}/*", f"*/*{GGUF}"))
    )


def require_folder(path: str) -> Path:
    """Return an existing folder; raises HubError otherwise, or for a GGUF."""
    try:
        folder = Path(path).expanduser()
        exists, is_folder = folder.exists(), folder.is_dir()
        is_gguf = has_only_ggufs(folder) if is_folder else is_gguf_file(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: `~nobody/x`
        reason = error.strerror if isinstance(error, OSError) else error
        raise HubError(f"`{path}` cannot be opened ({reason}): check it") from error
    if not exists:
        raise HubError(f"`{path}` does not exist: check the path")
    if is_gguf:
        fact = f"{'holds' if is_folder else 'is'} a GGUF, which is not run here"
        raise needs_conversion(path, fact, model_stem(folder.name))
    if not is_folder:
        raise HubError(f"`{path}` is a file: give its folder")
    return folder


def require_app_folder(model: str) -> Path:
    """Return the folder of another application's model; a GGUF must be converted."""
    found = find_app_model(model)
    if is_gguf_file(found):
        raise needs_conversion(
            model, "is a GGUF, which is not run here", plain_name(model)
        )
    return require_folder(str(found))


def require_hub_id(model: str) -> None:
    """Raise HubError unless `model` has the form `owner/name`."""
    if HUB_ID.fullmatch(model):
        return
    if is_empty_folder(model):
        raise HubError(
            f"`{model}` is a folder here, but holds no weights (`*.safetensors`): give "
            "the folder of a model, `demo` or a Hub id such as `openai/gpt-oss-20b`"
        )
    pieces = model.split("/")
    is_inside = len(pieces) > 2 and {"", ".", ".."}.isdisjoint(pieces)
    if is_inside and HUB_ID.fullmatch("/".join(pieces[:2])):
        raise needs_conversion(
            model,
            "is a part of a repository, which is not run here as it is",
            model_stem(model),
            is_here=False,
        )
    hint = "a path starts with `./`, `~` or `/`"
    raise HubError(
        f"`{model}` is neither `demo` nor a Hub id such as `openai/gpt-oss-20b`: {hint}"
    )


def is_empty_folder(model: str) -> bool:
    """Whether a name is a local folder without weights."""
    try:
        return bool(model) and Path(model).is_dir() and not is_weights_here(model)
    except (OSError, ValueError):
        return False


def is_complete(folder: Path) -> bool:
    """Whether config.json and all weight files are present."""
    if not (folder / CONFIG).exists():
        return False
    if not _has_index(folder):
        here = {path.name for path in folder.glob(WEIGHTS) if path.exists()}
        return bool(here) and all(
            part in here for name in here for part in list_shards(name)
        )
    names = _indexed_names(folder)
    return bool(names) and all(os.path.exists(folder / name) for name in names)


def missing_weights(folder: Path) -> int | None:
    """Estimate the missing bytes of weights named by the index.

    None without an index, or if it gives no total.
    """
    metadata = read_json_or_empty(folder / INDEX).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(total, int):
        return None
    paths = (folder / name for name in _indexed_names(folder))
    here = [path for path in paths if os.path.exists(path)]
    return max(0, total - sum(path.stat().st_size for path in here)) or None


def _indexed_names(folder: Path) -> set[str]:
    """Return the weight files named by the index; empty without one."""
    weight_map = read_json_or_empty(folder / INDEX).get("weight_map")
    return set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()


def _has_index(folder: Path) -> bool:
    """Whether a folder has an index that is not stale."""
    if not (folder / INDEX).exists():
        return False
    names = _indexed_names(folder)
    return not names or not is_stale_index(folder, names)


def describe_model(
    name: str, folder: Path, last_used: float | None, size: int | None = None
) -> LocalModel:
    """Describe the model in a folder; `size` is computed unless given."""
    if size is None:
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    kind = describe_kind(read_json_or_empty(folder / CONFIG))
    return LocalModel(name, folder, size, kind, last_used, is_complete(folder))


def describe_kind(raw: dict[str, Any]) -> str:
    """Describe a config: `gpt-oss-20b, MXFP4`, `gpt-oss-120b, rest 8-bit`."""
    if raw.get("model_type") == CLASSIFIER_TYPE:
        return "token classifier, for `redact`"
    experts = raw.get("num_local_experts")
    size = SIZES_BY_EXPERTS.get(experts) if isinstance(experts, int) else None
    words = f"gpt-oss-{size}" if size else "gpt-oss, small"
    quantization = raw.get("quantization")
    if isinstance(quantization, dict):
        bits, mode = quantization.get("bits"), quantization.get("mode", "affine")
        rest = f"rest {bits}-bit" if bits and mode == "affine" else "lossless"
        return f"{words}, {rest}"
    return f"{words}, {'MXFP4' if 'quantization_config' in raw else 'dense'}"
