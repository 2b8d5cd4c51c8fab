"""Words that a shell completes: models, adapters, ids of conversations.

Reads small files and prints nothing: an error completes nothing, because a shell has no
place to show it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.checkpoint.hub.local_models import is_path
from mlx_gptoss.cli.terminal import CONTROL
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.format.file_names import ADAPTER_CONFIG
from mlx_gptoss.memory.units import format_bytes

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MOST_SESSIONS = 50
TITLE = 60  # characters


def complete_models(
    context: click.Context, parameter: click.Parameter, begun: str
) -> "list[CompletionItem]":
    """Return the models on this machine whose names begin so; folders for a path."""
    from click.shell_completion import CompletionItem

    from mlx_gptoss.cli.services import Services

    if is_path(begun):
        return [CompletionItem(begun, type="dir")]
    services = context.find_object(Services) or Services()
    try:
        found = services.list_models()
    except (GptOssError, OSError):
        found = []
    return [
        CompletionItem(one.name, help=f"{format_bytes(one.bytes)}, {one.kind}")
        for one in found
        if one.name.startswith(begun)
    ]


def complete_adapters(
    context: click.Context, parameter: click.Parameter, begun: str
) -> "list[CompletionItem]":
    """Return the folders of adapters that begin so; others, to descend into, if none.

    `begun` may have a NAME= before the folder.
    """
    from click.shell_completion import CompletionItem

    name, equals, place = begun.rpartition("=")
    found = [f"{name}{equals}{one}" for one in _adapters(place)]
    if found or equals:
        return [CompletionItem(one) for one in found]
    return [CompletionItem(begun, type="dir")] if is_path(begun) else []


def _adapters(begun: str) -> list[str]:
    """Return the folders of adapters whose paths begin so."""
    folder = begun[: begun.rfind("/") + 1]
    try:
        inside = sorted(Path(folder or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # RuntimeError: `~nobody/x`
        return []
    return [
        folder + path.name
        for path in inside
        if (folder + path.name).startswith(begun) and (path / ADAPTER_CONFIG).is_file()
    ]


def complete_sessions(
    context: click.Context, parameter: click.Parameter, begun: str
) -> "list[CompletionItem]":
    """Return the ids of saved conversations that begin so, the latest first."""
    from click.shell_completion import CompletionItem

    from mlx_gptoss.cli.services import Services

    services = context.find_object(Services) or Services()
    try:
        found = services.sessions().list()
    except (GptOssError, OSError):
        return []
    return [
        CompletionItem(one.short_id, help=" ".join(_plain(one.title).split())[:TITLE])
        for one in found[:MOST_SESSIONS]
        if one.short_id.startswith(begun)
    ]


def _plain(text: str) -> str:
    return CONTROL.sub("", text)
