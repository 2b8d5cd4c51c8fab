"""/settings: how tokens are sampled from now on."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mlx_gptoss.cli.chat.commands.command import ChatCommand, Word
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import PromptError

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.loop import ChatLoop
    from mlx_gptoss.cli.chat.session import ChatSession
    from mlx_gptoss.engine.sampling_params import SamplingParams

DEFAULT = "default"
OFF = (DEFAULT, "none", "off")
NAMES = {  # as options spell them, and their fields
    "temperature": "temperature",
    "top-p": "top_p",
    "top-k": "top_k",
    "min-p": "min_p",
    "max-tokens": "max_tokens",
    "seed": "seed",
}
WHOLE = ("top_k", "max_tokens", "seed")
BETWEEN = re.compile(r"[\s=,]+")


def settings(loop: "ChatLoop", argument: str) -> None:
    """Show the sampling settings, or change some: NAME=VALUE, NAME=default."""
    conversation = loop.conversation
    if argument:
        conversation.set_params(changed(conversation.chat.params, argument))
    note(" · ".join(f"{name} {value}" for name, value in _values(conversation)))


def changed(params: "SamplingParams", argument: str) -> "SamplingParams":
    """Return `params` with the settings named by `argument` changed.

    Raises PromptError for an unknown name, and for a value out of range.
    """
    if argument == DEFAULT:
        argument = " ".join(f"{name}={DEFAULT}" for name in NAMES)
    words = [word for word in BETWEEN.split(argument) if word]
    changes = {}
    for name, value in zip(words[::2], [*words[1::2], ""], strict=False):
        field = NAMES.get(name.replace("_", "-"))
        if field is None or not value:
            raise PromptError(
                "/settings takes NAME=VALUE, such as temperature=0.7, or "
                f"NAME={DEFAULT}; names are {', '.join(NAMES)}"
            )
        changes[field] = _default(params, field) if value in OFF else value
    return replace(
        params,
        **{
            field: _number(field, value) if isinstance(value, str) else value
            for field, value in changes.items()
        },
    )


def _default(params: "SamplingParams", field: str) -> object:
    return type(params).__dataclass_fields__[field].default


def _number(field: str, text: str) -> float | str:
    """Return the number, or the text, which SamplingParams then refuses."""
    try:
        return int(text) if field in WHOLE else float(text)
    except ValueError:
        return text


def _values(conversation: "ChatSession") -> Iterator[Word]:
    params = conversation.chat.params
    for name, field in NAMES.items():
        value = getattr(params, field)
        yield name, "none" if value is None else str(value)


def _names(conversation: "ChatSession") -> Iterator[Word]:
    for name, value in _values(conversation):
        yield f"{name}=", f"now {value}"
    yield DEFAULT, "all as the model was published"


COMMANDS = (
    ChatCommand(
        "settings",
        "[NAME=VALUE …]",
        "show or change the sampling: temperature, seed …",
        settings,
        _names,
    ),
)
