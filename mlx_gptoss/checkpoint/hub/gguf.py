"""Find and download GGUF files of the Hub, which must be converted to run.

    owner/name               a repository whose only weights are one model as GGUF
    owner/name/FILE.gguf     one file of several, with its other shards

Knows names and downloads, not the content of files.
"""

from collections.abc import Mapping
from pathlib import Path

from mlx_gptoss.checkpoint.hub.cache import Hub
from mlx_gptoss.checkpoint.hub.download import Progress
from mlx_gptoss.checkpoint.hub.gguf_files import (
    first_shards,
    list_models,
    list_shards,
)
from mlx_gptoss.checkpoint.hub.local_models import HUB_ID, is_complete
from mlx_gptoss.checkpoint.hub.repo_folder import BRANCH
from mlx_gptoss.checkpoint.hub.retries import Notify
from mlx_gptoss.errors import HubError
from mlx_gptoss.format.file_names import GGUF
from mlx_gptoss.memory import format_bytes

ID_PARTS = 2  # owner and name


def split_name(model: str) -> tuple[str, str | None]:
    """Split `owner/name/FILE.gguf`; the file is None for a plain Hub id."""
    pieces = model.split("/")
    repo = "/".join(pieces[:ID_PARTS])
    if len(pieces) > ID_PARTS and model.endswith(GGUF) and HUB_ID.fullmatch(repo):
        return repo, "/".join(pieces[ID_PARTS:])
    return model, None


def find_cached_gguf(hub: Hub, repo: str, name: str | None) -> Path | None:
    """Return a model's (first) GGUF file if it is complete in the cache.

    With `name` None, only if it is the only model of the repository.
    """
    folder = hub.snapshot(repo)
    if folder is None or (name is None and is_complete(folder)):
        return None
    if name is None:
        found = (path.relative_to(folder) for path in folder.rglob(f"*{GGUF}"))
        firsts = first_shards(map(str, found))
        name = firsts[0] if len(firsts) == 1 else None
    whole = name is not None and all((folder / x).is_file() for x in list_shards(name))
    return folder / name if name is not None and whole else None


def fetch_gguf(
    hub: Hub,
    repo: str,
    name: str | None = None,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Path:
    """Return the (first) GGUF file of a model, downloading it if necessary.

    Raises HubError if `name` is None and the repository has none or several.
    """
    here = find_cached_gguf(hub, repo, name)
    if here is not None:
        return here
    hub.require_network(repo, offline=offline)
    sizes = hub.list_files(repo)
    name = name or choose_only_model(repo, sizes)
    missing = [part for part in list_shards(name) if part not in sizes]
    if missing:
        raise HubError(
            f"`{repo}` has no file `{missing[0]}`: see https://huggingface.co/{repo}"
        )
    needed = {part: sizes[part] for part in list_shards(name)}
    if notify is not None:
        notify(
            f"{format_bytes(sum(needed.values()))} to download; the result takes about "
            "as much again, which is said before it is written"
        )
    folder = hub.fetch_files(repo, needed, progress, revision=BRANCH, notify=notify)
    return folder / name


def choose_only_model(repo: str, sizes: Mapping[str, int]) -> str:
    firsts = first_shards(name for name in sizes if name.endswith(GGUF))
    if not firsts:
        raise HubError(f"`{repo}` has no weights that can be converted: choose another")
    if len(firsts) > 1:
        raise HubError(
            f"`{repo}` has {len(firsts)} models as GGUF: give one of them, with MXFP4 "
            f"experts if there is one\n{list_models(repo, firsts, sizes)}"
        )
    return firsts[0]
