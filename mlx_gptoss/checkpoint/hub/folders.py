"""Find and download one folder of a Hub repository that holds several models.

    owner/name/FOLDER        its weights, config and tokenizer, nothing else

Knows names and downloads, not the content of files.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from mlx_gptoss.checkpoint.hub.cache import Hub
from mlx_gptoss.checkpoint.hub.download import Progress
from mlx_gptoss.checkpoint.hub.gguf import ID_PARTS, fetch_gguf
from mlx_gptoss.checkpoint.hub.gguf_files import first_shards, list_models
from mlx_gptoss.checkpoint.hub.local_models import HUB_ID, is_complete
from mlx_gptoss.checkpoint.hub.repo_folder import BRANCH
from mlx_gptoss.checkpoint.hub.repo_listing import NEEDED_PATTERNS, model_folders
from mlx_gptoss.checkpoint.hub.retries import Notify
from mlx_gptoss.errors import HubError
from mlx_gptoss.format.file_names import GGUF, ORIGINAL, WEIGHTS
from mlx_gptoss.memory import format_bytes


def split_folder(model: str) -> tuple[str, str | None]:
    """Split `owner/name/FOLDER`; the folder is None for any other name."""
    pieces = model.rstrip("/").split("/")
    repo, folder = "/".join(pieces[:ID_PARTS]), "/".join(pieces[ID_PARTS:])
    is_folder = {"", ".", ".."}.isdisjoint(pieces) and not folder.endswith(GGUF)
    is_folder = is_folder and len(pieces) > ID_PARTS
    return (repo, folder) if is_folder and HUB_ID.fullmatch(repo) else (model, None)


def fetch_folder(
    hub: Hub,
    repo: str,
    folder: str,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Path:
    """Return a folder of a repository, downloading it if necessary; or its GGUF.

    Raises HubError if the folder holds no model, or several GGUFs.
    """
    here = hub.snapshot(repo)
    if here is not None and is_complete(here / folder):
        return here / folder
    hub.require_network(f"{repo}/{folder}", offline=offline)
    sizes = hub.list_files(repo)
    inside = [name for name in sizes if name.startswith(f"{folder}/")]
    ggufs = first_shards(name for name in inside if name.endswith(GGUF))
    if folder not in model_folders(sizes):
        if len(ggufs) == 1:
            return fetch_gguf(hub, repo, ggufs[0], progress=progress, notify=notify)
        raise no_model_error(repo, folder, ggufs, sizes)
    needed = {name: sizes[name] for name in needed_names(folder, sizes)}
    if notify is not None:
        notify(f"{format_bytes(sum(needed.values()))} to download, of `{folder}` only")
    found = hub.fetch_files(repo, needed, progress, revision=BRANCH, notify=notify)
    return found / folder


def needed_names(folder: str, names: Mapping[str, int]) -> Iterator[str]:
    """Yield the files of a model in a folder, `config.json` last.

    The tokenizer of `original/` is in the folder above it.
    """
    above, _, last = f"/{folder}".rpartition("/")
    places = [folder, above.removeprefix("/")] if last == ORIGINAL else [folder]
    found: dict[str, None] = {}
    for pattern in NEEDED_PATTERNS:
        for name in sorted(names):
            place, _, file = name.rpartition("/")
            own = place == places[0] or (place in places and pattern != WEIGHTS)
            if own and fnmatch(file, pattern):
                found.pop(name, None)  # the last pattern that matches decides
                found[name] = None
    yield from found


def no_model_error(
    repo: str, folder: str, ggufs: list[str], sizes: Mapping[str, int]
) -> HubError:
    """Make the error for a folder without one model, listing what there is."""
    if ggufs:
        return HubError(
            f"`{repo}/{folder}` has {len(ggufs)} models as GGUF: give one of them\n"
            + list_models(repo, ggufs, sizes)
        )
    folders = model_folders(sizes)
    if not folders:
        return HubError(f"`{repo}` has no model in a folder `{folder}`: check the name")
    return HubError(
        f"`{repo}` has no model in `{folder}`: give one of these\n"
        + list_models(repo, sorted(folders), folders)
    )
