"""Names of models: in the place of a message, and as Ollama spells them."""

import sys
from typing import TYPE_CHECKING

import click

from mlx_gptoss.checkpoint.hub.local_models import (
    DEMO,
    HUB_ID,
    is_path,
    is_weights_here,
)
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.cli.services import Services

OURS = "gpt-oss"  # in the name of a model that runs here
PUBLISHED = {  # Ollama's names of OpenAI's models, and the Hub's
    "gpt-oss": "openai/gpt-oss-20b",
    "gpt-oss:latest": "openai/gpt-oss-20b",
    "gpt-oss:20b": "openai/gpt-oss-20b",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "gpt-oss:120b": "openai/gpt-oss-120b",
    "gpt-oss-120b": "openai/gpt-oss-120b",
}


def published_name(model: str) -> str:
    """Return the Hub id for Ollama's name of a model; another name as it is."""
    if model in PUBLISHED and not is_weights_here(model):
        note(f"`{model}` is `{PUBLISHED[model]}`")
        return PUBLISHED[model]
    return model


def is_meant(services: "Services", message: str) -> bool:
    """Say whether a message is the name of a model, to chat with it.

    At a terminal the user is asked. Elsewhere the message stays one, with a note if the
    name is one of a gpt-oss model or of a model that is here.
    """
    known = (
        message == DEMO
        or message in PUBLISHED
        or (is_path(message) and is_weights_here(message))
        or (bool(HUB_ID.fullmatch(message)) and _is_ours(services, message))
    )
    if not known and not HUB_ID.fullmatch(message):
        return False
    if sys.stdin.isatty() and sys.stderr.isatty():
        return click.confirm(
            f"`{message}` could be the name of a model. Chat with that model?",
            default=known,
            err=True,
        )
    if known:
        note(
            f"`{message}` is sent as the message; to chat with the model of that "
            f"name: mlx-gptoss chat -m {message}"
        )
    return False


def _is_ours(services: "Services", name: str) -> bool:
    found = OURS in name.lower() or is_weights_here(name)
    return found or services.hub.cached(name) is not None
