"""List the models in the Hub's cache, complete or not. Uses no network."""

from collections.abc import Iterator
from pathlib import Path

from mlx_gptoss.checkpoint.hub.local_models import (
    HUB_ID,
    MODEL_TYPES,
    UNKNOWN_KIND,
    LocalModel,
    describe_kind,
    is_complete,
    missing_weights,
)
from mlx_gptoss.checkpoint.hub.repo_folder import RepoFolder
from mlx_gptoss.checkpoint.json_files import read_json_or_empty
from mlx_gptoss.format.file_names import CONFIG, WEIGHTS
from mlx_gptoss.memory import format_bytes

REPOS = "models--*--*"  # how the cache names the folder of `owner/name`


def list_cached_models(cache: Path) -> list[LocalModel]:
    """List gpt-oss models, and interrupted downloads of any model."""
    return [
        model for repo in _repos(cache) if (model := _describe_repo(repo)) is not None
    ]


def describe_missing(repo: RepoFolder) -> str | None:
    """Describe how much of a model is missing; None if it is complete or absent."""
    model = _describe_repo(repo)
    if model is None or model.complete:
        return None
    return f"is only partly on this machine{format_missing(model)}"


def format_missing(model: LocalModel) -> str:
    """Format ` (8.6 GB missing)`, or "" if the size is unknown."""
    return f" ({format_bytes(model.missing)} missing)" if model.missing else ""


def _repos(cache: Path) -> Iterator[RepoFolder]:
    for path in cache.glob(REPOS):
        name = path.name.split("--", 1)[1].replace("--", "/")
        if HUB_ID.fullmatch(name):
            yield RepoFolder(cache, name)


def _describe_repo(repo: RepoFolder) -> LocalModel | None:
    """Describe a repository if it is, or may become, a runnable model."""
    folder = repo.snapshot()
    config = read_json_or_empty(folder / CONFIG) if folder else {}
    begun = any(repo.partial_files()) or (
        folder is not None and any(folder.glob(WEIGHTS))
    )
    if config.get("model_type") not in MODEL_TYPES and (config or not begun):
        return None
    # A Hub id means the branch; another complete revision does not count.
    complete = (
        folder is not None and folder == repo.branch_folder() and is_complete(folder)
    )
    facts = repo.stat_files().values()
    missing = None
    if not complete:
        missing = repo.missing_bytes()
        if missing is None and folder is not None:
            missing = missing_weights(folder)
    return LocalModel(
        repo.repo,
        folder if folder and config else repo.path,
        sum(fact.st_size for fact in facts),
        describe_kind(config) if config else UNKNOWN_KIND,
        max((max(x.st_atime, x.st_mtime) for x in facts), default=None),
        complete,
        missing,
    )
