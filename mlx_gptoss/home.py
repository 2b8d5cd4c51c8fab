"""Where this program keeps what it should remember for a user. Touches nothing.

Folders are named by `HOME` and by variables of the environment. What is relative there
would be another folder wherever the program is started, with private text in it: that
is an error, and so is an empty `HOME`, which would mean the root of the disk.
"""

import os
import sys
from pathlib import Path

from mlx_gptoss.errors import GptOssError

NAME = "mlx-gptoss"
CACHE = "MLX_GPTOSS_CACHE"  # another place for prompts that were read
OPTIONAL = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", CACHE)
OF_AGENTS = ("CODEX_HOME", "CLAUDE_CONFIG_DIR")  # asked for by `agents setup` only
# These may begin with `~`. Empty, the Hub's library takes them for the current folder.
OF_THE_HUB = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


def home() -> Path:
    """Return the user's folder of settings and measurements, there or not yet."""
    if sys.platform == "darwin":
        return user_home() / "Library" / "Application Support" / NAME
    return (named("XDG_CONFIG_HOME") or user_home() / ".config") / NAME


def data_home() -> Path:
    """Return the user's folder of chats, there or not yet."""
    if sys.platform == "darwin":
        return home()
    return (named("XDG_DATA_HOME") or user_home() / ".local" / "share") / NAME


def cache_home() -> Path:
    """Return the folder of what can be computed again, there or not yet."""
    if sys.platform == "darwin":
        return user_home() / "Library" / "Caches" / NAME
    return (named("XDG_CACHE_HOME") or user_home() / ".cache") / NAME


def user_home() -> Path:
    """Return the user's home. Raises GptOssError if nobody says where that is."""
    if (found := named("HOME")) is not None:
        return found
    try:
        return Path.home()
    except RuntimeError as error:
        raise GptOssError("this user has no home: set `HOME` to a folder") from error


def named(variable: str) -> Path | None:
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


def check_named_folders() -> None:
    """Raise GptOssError, before any work, for a variable that names no folder."""
    for variable in ("HOME", *OPTIONAL, *OF_THE_HUB):
        named(variable)
