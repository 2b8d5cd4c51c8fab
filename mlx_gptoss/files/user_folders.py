"""Folders this program uses for a user's settings, chats and caches. Creates nothing.

They are named by `HOME` and other environment variables. Relative values are refused:
private files would be scattered over the folders the program is started in. So is an
empty `HOME`, which would mean the root of the disk.
"""

import os
import sys
from pathlib import Path

from mlx_gptoss.errors import GptOssError

PROGRAM_NAME = "mlx-gptoss"
CACHE_VARIABLE = "MLX_GPTOSS_CACHE"  # overrides the folder of cached prompts
OPTIONAL = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", CACHE_VARIABLE)
AGENT_VARIABLES = ("CODEX_HOME", "CLAUDE_CONFIG_DIR")  # read by `agents setup` only
# These may begin with `~`. The Hub's library takes an empty one for the current folder.
HUB_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


def config_folder() -> Path:
    """Return the user's folder of settings and measurements; it may not exist yet."""
    return _user_folder("Application Support", "XDG_CONFIG_HOME", ".config")


def data_folder() -> Path:
    """Return the user's folder of chats; it may not exist yet."""
    return _user_folder("Application Support", "XDG_DATA_HOME", ".local/share")


def cache_folder() -> Path:
    """Return the folder of what can be recomputed; it may not exist yet."""
    return _user_folder("Caches", "XDG_CACHE_HOME", ".cache")


def _user_folder(in_library: str, variable: str, in_home: str) -> Path:
    if sys.platform == "darwin":
        return user_home() / "Library" / in_library / PROGRAM_NAME
    return (environment_folder(variable) or user_home() / in_home) / PROGRAM_NAME


def user_home() -> Path:
    """Return the user's home. Raises GptOssError if the system names none."""
    if (found := environment_folder("HOME")) is not None:
        return found
    try:
        return Path.home()
    except RuntimeError as error:
        raise GptOssError("this user has no home: set `HOME` to a folder") from error


def environment_folder(variable: str) -> Path | None:
    """Return the folder that an environment variable names, or None if it is not set.

    Raises GptOssError for a relative path, and for an empty `HOME`.
    """
    value = os.environ.get(variable)
    if value is None or (not value and variable in (*OPTIONAL, *AGENT_VARIABLES)):
        return None
    path = os.path.expanduser(value) if variable in HUB_VARIABLES else value
    if not os.path.isabs(path):
        shown = f"`{value}`, which is not an absolute path" if value else "empty"
        raise GptOssError(
            f"`{variable}` is {shown}: set it to an absolute path, or unset it"
        )
    return Path(path)


def check_environment_folders() -> None:
    """Raise GptOssError for any variable that does not name a folder."""
    for variable in ("HOME", *OPTIONAL, *HUB_VARIABLES):
        environment_folder(variable)
