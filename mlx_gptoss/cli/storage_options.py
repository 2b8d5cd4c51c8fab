"""Options that bound what a command stores on this machine.

    @loads_model
    @keeps_prompts            # --private, --disk-cache
    def chat(options: LoadOptions, ...)

In a command that `is_private` nothing is written: no chat, no typed line, no prompt.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.options import MemorySizeType
from mlx_gptoss.cli.services import Services
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import StorageError
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions

PRIVATE = "MLX_GPTOSS_PRIVATE"
DISK_CACHE = "4GB"

PROMPT_OPTIONS = (
    click.option(
        "--disk-cache",
        metavar="SIZE",
        type=MemorySizeType(may_be_none=True),
        default=DISK_CACHE,
        show_default=True,
        help="Disk space for the prompt cache of all models; the oldest entries are "
        "removed beyond it; 0 keeps none",
    ),
    click.option(
        "--private",
        is_flag=True,
        envvar=PRIVATE,
        help=f"Write nothing of the conversation to disk [also: {PRIVATE}=1]",
    ),
)


def keeps_prompts(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add PROMPT_OPTIONS to a command; they become part of its `options`."""

    @wraps(function)
    def wrapper(
        *args: Any, options: "LoadOptions", disk_cache: int, private: bool, **rest: Any
    ) -> Any:
        from mlx_gptoss.engine.prompt_cache import CacheOptions

        disk = 0 if private else disk_cache
        if not private:
            shrink(disk)
        options = replace(options, cache=CacheOptions(disk=disk))
        return function(*args, options=options, **rest)

    for option in reversed(PROMPT_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def is_private() -> bool:
    """Return whether the running command was given `--private`."""
    return click.get_current_context().params["private"]


def shrink(most: int) -> None:
    """Shrink the prompt cache on disk to `most` bytes."""
    services = click.get_current_context().find_object(Services) or Services()
    try:
        freed = services.shrink_prompts(most)
    except StorageError as error:
        note(str(error))
        return
    if freed:
        note(
            f"Shrank the prompt cache on disk to {format_bytes(most)}: "
            f"{format_bytes(freed)} freed"
        )
