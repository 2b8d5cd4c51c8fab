"""Which model is meant when none is named; remembers the choice of `use`."""

import json
import os
from pathlib import Path

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import make_folder, write
from mlx_gptoss.home import home
from mlx_gptoss.hub.folders import DEMO

VARIABLE = "MLX_GPTOSS_MODEL"
FILE = "settings.json"
HINT = (
    "Using the small demo model; for the real one: `mlx-gptoss use openai/gpt-oss-20b`"
)


def settings_file() -> Path:
    """Return where settings are kept: the user's own configuration folder."""
    return home() / FILE


def chosen_model() -> str | None:
    """Return what `mlx-gptoss use` stored."""
    path = settings_file()
    if not path.exists():
        return None
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`{path}` cannot be read ({type(error).__name__}): delete it, then run "
            "`mlx-gptoss use MODEL`"
        ) from error
    return str(model)


def choose_model(model: str) -> Path:
    """Store the default model; return the file it is stored in."""
    path = settings_file()
    make_folder(path.parent)
    write(path, json.dumps({"model": model}, indent=2) + "\n")
    return path


def default_model() -> tuple[str, str | None]:
    """Return the model meant when none is named, and a hint for the user or None."""
    named = os.environ.get(VARIABLE) or chosen_model()
    return (named, None) if named else (DEMO, HINT)
