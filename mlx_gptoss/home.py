"""Where this program keeps what it should remember for a user. Touches nothing.

Folders are named by `HOME` and by variables of the environment. What is relative there
would be another folder wherever the program is started, with private text in it: that
is an error, and so is an empty `HOME`, which would mean the root of the disk.
"""

import os
import sys
from pathlib import Path

from mlx_gptoss.errors import GptOssError

PROGRAM_NAME = "mlx-gptoss"
CACHE_VARIABLE = "MLX_GPTOSS_CACHE"  # another place for prompts that were read
OPTIONAL = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", CACHE_VARIABLE)
OF_AGENTS = ("CODEX_HOME", "CLAUDE_CONFIG_DIR")  # asked for by `agents setup` only
# These may begin with `~`. Empty, the Hub's library takes them for the current folder.
OF_THE_HUB = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


def config_folder() -> Path:
    """Return the user's folder of settings and measurements, there or not yet."""
    if sys.platform == "darwin":
        return user_home() / "Library" / "Application Support" / PROGRAM_NAME
    return (
        environment_folder("XDG_CONFIG_HOME") or user_home() / ".config"
    ) / PROGRAM_NAME


def data_folder() -> Path:
    """Return the user's folder of chats, there or not yet."""
    if sys.platform == "darwin":
        return config_folder()
    return (
        environment_folder("XDG_DATA_HOME") or user_home() / ".local" / "share"
    ) / PROGRAM_NAME


def cache_folder() -> Path:
    """Return the folder of what can be computed again, there or not yet."""
    if sys.platform == "darwin":
        return user_home() / "Library" / "Caches" / PROGRAM_NAME
    return (
        environment_folder("XDG_CACHE_HOME") or user_home() / ".cache"
    ) / PROGRAM_NAME


def user_home() -> Path:
    """Return the user's home. Raises GptOssError if nobody says where that is."""
    if (found := environment_folder("HOME")) is not None:
        return found
    try:
        return Path.home()
    except RuntimeError as error:
        raise GptOssError("this user has no home: set `HOME` to a folder") from error


def environment_folder(variable: str) -> Path | None:
    """Return the folder that a variable names, None for none; may raise GptOssError."""
    given = os.environ.get(variable)
    if given is None or (not given and variable in (*OPTIONAL, *OF_AGENTS)):
        return None
    shown = f"`{given}`, which is no whole path" if given else "empty"
    path = os.path.expanduser(given) if variable in OF_THE_HUB else given
    if not os.path.isabs(path):
        raise GptOssError(
            f"`{variable}` is {shown}: set it to the path of a folder, from `/` on, or "
            "unset it"
        )
    return Path(path)


def check_environment_folders() -> None:
    """Raise GptOssError, before any work, for a variable that names no folder."""
    for variable in ("HOME", *OPTIONAL, *OF_THE_HUB):
        environment_folder(variable)
