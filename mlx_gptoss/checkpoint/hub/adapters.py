"""Adapters (LoRA) on the Hub: find them on this machine, or download them.

An adapter's repository has its weights and `adapter_config.json`, and no model.
"""

import logging
import os
from collections.abc import Collection
from pathlib import Path

from mlx_gptoss.checkpoint.hub.cache import Hub
from mlx_gptoss.checkpoint.hub.download import Progress
from mlx_gptoss.checkpoint.hub.library import is_offline
from mlx_gptoss.checkpoint.hub.local_models import HUB_ID, is_path, require_folder
from mlx_gptoss.checkpoint.hub.repo_folder import BRANCH, RepoFolder
from mlx_gptoss.checkpoint.hub.retries import Notify
from mlx_gptoss.errors import HubError
from mlx_gptoss.format.file_names import ADAPTER_CONFIG, ADAPTERS

LOGGER = logging.getLogger(__name__)


def resolve_adapter(
    place: str,
    *,
    hub: Hub | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Path:
    """Return the folder of an adapter: a path or a Hub id, downloaded if necessary.

    A folder here takes precedence over a Hub id of that name, with a warning.
    `notify` receives one line per event of the download. Raises HubError.
    """
    if is_path(place):
        return require_folder(place)
    if _is_folder_here(place):
        if HUB_ID.fullmatch(place):
            LOGGER.warning(
                "`%s` is a folder here, and goes before the Hub's adapter of that "
                "name: write `./%s` to say so",
                place,
                place,
            )
        return Path(place)
    if not HUB_ID.fullmatch(place):
        raise HubError(
            f"the adapter `{place}` is neither a folder here nor a Hub id such as "
            "`owner/name`: check the path"
        )
    hub = hub or Hub()
    if (here := cached_adapter(hub, place)) is not None:
        return here
    if offline or is_offline():
        raise HubError(
            f"the adapter `{place}` is not on this machine and downloads are off: run "
            "this once without `--offline` or `HF_HUB_OFFLINE`"
        )
    sizes = hub.list_files(place)
    wanted = {name: sizes[name] for name in _needed(place, sizes)}
    return hub.fetch_files(place, wanted, progress, revision=BRANCH, notify=notify)


def cached_adapter(hub: Hub, repo: str) -> Path | None:
    """Return the folder of a downloaded adapter, if it is complete."""
    folder = RepoFolder(hub.folder, repo).branch_folder()
    if folder is None:
        return None
    here = {name for name in os.listdir(folder) if (folder / name).exists()}
    return folder if ADAPTER_CONFIG in here and not here.isdisjoint(ADAPTERS) else None


def _needed(repo: str, names: Collection[str]) -> list[str]:
    """Return the files to download, the config last; raises HubError for no adapter."""
    weights = [name for name in ADAPTERS if name in names]
    if not weights or ADAPTER_CONFIG not in names:
        lack = ADAPTER_CONFIG if weights else f"none of {', '.join(ADAPTERS)}"
        raise HubError(
            f"`{repo}` is no adapter (LoRA) in safetensors: it has "
            f"{'no ' if weights else ''}`{lack}`; give a model with `-m`"
        )
    return [*weights, ADAPTER_CONFIG]


def _is_folder_here(place: str) -> bool:
    try:
        return Path(place).is_dir()
    except (OSError, ValueError):  # a name too long or invalid for a path
        return False
