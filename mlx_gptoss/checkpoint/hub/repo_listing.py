"""Request a repository's commit and files from the Hub, and select those needed."""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from mlx_gptoss.checkpoint.hub.errors import GgufOnlyError
from mlx_gptoss.checkpoint.hub.library import library, require_session
from mlx_gptoss.checkpoint.hub.local_models import MODEL_TYPE
from mlx_gptoss.errors import HubError
from mlx_gptoss.format.file_names import ADAPTER_CONFIG, ADAPTERS, CONFIG, GGUF, WEIGHTS

# Files of a model in download order: config.json last, so that a folder with it is
# complete. Files in subfolders (`original/`, `metal/`) never match.
NEEDED_PATTERNS = (WEIGHTS, "*.json", "*.jinja", "LICENSE*", CONFIG)


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub lists it; unknown values are None."""

    name: str
    size: int | None
    etag: str | None  # the file's name in the cache
    sha256: str | None  # of large files only


@dataclass(frozen=True)
class RepoListing:
    """The files of a repository at one commit."""

    repo: str
    commit: str
    model_type: str
    files: dict[str, HubFile]

    @property
    def etags(self) -> set[str]:
        return {file.etag for file in self.files.values() if file.etag}


def fetch_listing(
    endpoint: str | None, repo: str, revision: str | None = None
) -> RepoListing:
    """Request the listing of a repository."""
    require_session()
    try:
        return _request_listing(endpoint, repo, revision)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HubError(
            f"the response about `{repo}` is not the Hub's: check "
            "`HF_ENDPOINT`, your proxy, and whether this network requires a login"
        ) from error


def _request_listing(
    endpoint: str | None, repo: str, revision: str | None
) -> RepoListing:
    api = library().HfApi(endpoint)
    facts = api.model_info(
        repo,
        revision=revision,
        files_metadata=True,
        timeout=library().constants.HF_HUB_ETAG_TIMEOUT,
    )
    if not facts.sha:
        raise HubError(f"the Hub names no commit of `{repo}`: check `HF_ENDPOINT`")
    files = [_file(sibling) for sibling in facts.siblings or ()]
    kind = (facts.config or {}).get("model_type", MODEL_TYPE)
    return RepoListing(repo, facts.sha, kind, {file.name: file for file in files})


def _file(sibling: Any) -> HubFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    name, size = sibling.rfilename, sibling.size
    if "\0" in name or (size is not None and size < 0):
        raise ValueError(f"`{name!r}` of {size} bytes is no file")
    return HubFile(name, size, sha256 or sibling.blob_id, sha256)


def select_files(published: RepoListing) -> list[HubFile]:
    """Select the files to download, in the order of NEEDED_PATTERNS."""
    model, kind, files = published.repo, published.model_type, published.files
    if kind != MODEL_TYPE:
        raise HubError(f"`{model}` is a `{kind}` model: only gpt-oss models run here")
    top = sorted(name for name in files if "/" not in name)
    needed: dict[str, HubFile] = {}
    for pattern in NEEDED_PATTERNS:
        for name in top:
            if fnmatch(name, pattern):
                needed.pop(name, None)  # the last pattern that matches decides
                needed[name] = files[name]
    weights = {name for name in needed if is_weights(name)}
    if CONFIG not in needed or weights <= set(ADAPTERS):
        _refuse(model, files.keys())
    return list(needed.values())


def is_weights(name: str) -> bool:
    return fnmatch(name, WEIGHTS)


def _refuse(model: str, names: Collection[str]) -> None:
    """Raise HubError describing a repository without a runnable model."""
    if not {ADAPTER_CONFIG, *ADAPTERS}.isdisjoint(names):
        raise HubError(
            f"`{model}` is an adapter (LoRA), not a model: give its model with `-m`, "
            f"and the adapter with `-a {model}`"
        )
    if any(name.endswith(GGUF) for name in names):
        raise GgufOnlyError(
            f"`{model}` is published as GGUF, which is not run here: convert it "
            f"with `mlx-gptoss convert {model} DST`, or choose a model published "
            "as safetensors"
        )
    raise HubError(
        f"`{model}` has no `{CONFIG}` with safetensors weights beside it: "
        "choose a model published as safetensors"
    )
