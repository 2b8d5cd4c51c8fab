"""The default model, and the choice stored by `mlx-gptoss use`."""

import json
import os
from pathlib import Path

from mlx_gptoss.checkpoint.hub.local_models import DEMO
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import config_folder, make_folder, write

VARIABLE = "MLX_GPTOSS_MODEL"
FILE = "settings.json"
HINT = (
    "Using the small demo model; for the real one: `mlx-gptoss use openai/gpt-oss-20b`"
)


def settings_file() -> Path:
    """Return the settings file in the user's configuration folder."""
    return config_folder() / FILE


def chosen_model() -> str | None:
    """Return the model stored by `mlx-gptoss use`, or None."""
    path = settings_file()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "it is not JSON") from error
    model = stored.get("model") if isinstance(stored, dict) else None
    if not isinstance(model, str):
        raise _unreadable(path, "it names no `model`")
    return model


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"`{path}` cannot be read ({why}): delete it, then run `mlx-gptoss use MODEL`"
    )


def choose_model(model: str) -> Path:
    """Store the default model; return the settings file."""
    path = settings_file()
    make_folder(path.parent)
    write(path, json.dumps({"model": model}, indent=2) + "\n")
    return path


def default_model() -> tuple[str, str | None]:
    """Return the default model, and a hint for the user or None."""
    named = os.environ.get(VARIABLE) or chosen_model()
    return (named, None) if named else (DEMO, HINT)
