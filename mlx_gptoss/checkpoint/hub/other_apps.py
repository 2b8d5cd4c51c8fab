"""Names of models that other applications keep on this machine.

Only `ollama_models` and `lm_studio_models` know where; both are read, never written.
"""

from pathlib import Path

from mlx_gptoss.checkpoint.hub.gguf_files import model_stem
from mlx_gptoss.checkpoint.hub.lm_studio_models import LM_STUDIO, find_lm_studio_model
from mlx_gptoss.checkpoint.hub.ollama_models import OLLAMA, find_ollama_model
from mlx_gptoss.errors import HubError

FINDERS = {OLLAMA: find_ollama_model, LM_STUDIO: find_lm_studio_model}


def is_app_name(model: str) -> bool:
    """Whether `model` names one of Ollama's or LM Studio's."""
    return model.startswith(tuple(FINDERS))


def find_app_model(model: str) -> Path:
    """Return the GGUF file (the first of several parts) or the folder of a model.

    Raises HubError if it is not there, incomplete, or several.
    """
    app = next(app for app in FINDERS if model.startswith(app))
    try:
        return FINDERS[app](model.removeprefix(app))
    except OSError as error:
        raise HubError(
            f"`{model}` cannot be read (`{error.filename}`: {error.strerror}): check "
            "its permissions"
        ) from error


def plain_name(model: str) -> str:
    """Return a name for what is made of a model, without app and publisher."""
    return model_stem(model.rpartition("/")[2].removeprefix(OLLAMA))
