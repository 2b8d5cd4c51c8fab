"""Where this program keeps what it should remember for a user. Touches nothing."""

import os
import sys
from pathlib import Path

NAME = "mlx-gptoss"


def home() -> Path:
    """Return the user's folder of settings and measurements, there or not yet."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / NAME
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / NAME


def data_home() -> Path:
    """Return the user's folder of chats, there or not yet."""
    if sys.platform == "darwin":
        return home()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / NAME


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and rename it, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
