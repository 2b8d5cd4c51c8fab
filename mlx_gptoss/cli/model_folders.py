"""Folders of models that were converted here, or lie in the current folder.

`convert` and `merge` record what they wrote, in a small file beside the chats.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from mlx_gptoss.checkpoint.hub.local_models import (
    MODEL_TYPES,
    LocalModel,
    describe_model,
    holds_weights,
    is_path,
)
from mlx_gptoss.checkpoint.json_files import read_json_or_empty
from mlx_gptoss.cli.settings import default_model
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import data_folder, make_folder, user_home, write
from mlx_gptoss.format.file_names import CONFIG

FILE = "folders.json"


def remember_folder(folder: Path) -> None:
    """Record a folder with a model. Raises StorageError if that cannot be written."""
    folder = folder.resolve()
    folders = [folder, *(one for one in _recorded() if one != folder)]
    kept = [str(one) for one in folders if one.is_dir()]
    path = data_folder() / FILE
    make_folder(path.parent)
    write(path, json.dumps({"folders": kept}, indent=2) + "\n")


def list_folders() -> list[LocalModel]:
    """List the models in recorded folders, in the current one, and the default."""
    found = dict.fromkeys(one for one in _candidates() if _is_model(one))
    return sorted(map(_described, found), key=lambda model: model.name)


def is_default(model: LocalModel) -> bool:
    """Say whether commands use this model if none is named."""
    name = default_model()[0]
    if is_path(name):
        return Path(name).expanduser().resolve() == model.path.resolve()
    return name == model.name


def _candidates() -> Iterator[Path]:
    yield from _recorded()
    name = default_model()[0]
    if is_path(name):
        yield Path(name).expanduser().resolve()
    try:
        yield from (one.resolve() for one in Path.cwd().iterdir() if one.is_dir())
    except OSError:  # it was removed, or may not be read
        return


def _recorded() -> list[Path]:
    """Return the recorded folders; none if the record is damaged."""
    listed = read_json_or_empty(data_folder() / FILE).get("folders")
    if not isinstance(listed, list):
        return []
    return [Path(one) for one in listed if isinstance(one, str)]


def _is_model(folder: Path) -> bool:
    try:
        kind = read_json_or_empty(folder / CONFIG).get("model_type")
        return kind in MODEL_TYPES and holds_weights(folder)
    except (OSError, ConfigError):
        return False


def _described(folder: Path) -> LocalModel:
    facts = [file.stat() for file in folder.iterdir() if file.is_file()]
    used = max((max(one.st_atime, one.st_mtime) for one in facts), default=None)
    size = sum(one.st_size for one in facts)
    return describe_model(spelled(folder), folder, used, size)


def spelled(folder: Path) -> str:
    """Return the shortest name that options take for a folder: `./x`, `~/x`, `/x`."""
    for start, base in (("./", Path.cwd()), ("~/", user_home().resolve())):
        if folder.is_relative_to(base) and folder != base:
            inside = folder.relative_to(base)
            if start == "~/" or len(inside.parts) == 1:
                return f"{start}{inside}"
    return str(folder)
