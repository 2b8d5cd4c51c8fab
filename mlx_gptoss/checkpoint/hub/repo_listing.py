"""Request a repository's commit and files from the Hub, and select those needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from mlx_gptoss.checkpoint.hub.errors import GgufOnlyError
from mlx_gptoss.checkpoint.hub.gguf_files import (
    first_shards,
    list_models,
    list_shards,
    needs_conversion,
)
from mlx_gptoss.checkpoint.hub.library import library, require_session
from mlx_gptoss.checkpoint.hub.local_models import MODEL_TYPE, MODEL_TYPES
from mlx_gptoss.errors import HubError
from mlx_gptoss.format.file_names import ADAPTER_CONFIG, ADAPTERS, CONFIG, GGUF, WEIGHTS
from mlx_gptoss.format.foreign_files import describe_runtime
from mlx_gptoss.format.foreign_forms import describe_other_model
from mlx_gptoss.memory import format_bytes

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
    architectures: tuple[str, ...] = ()

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
    config = facts.config or {}
    return RepoListing(
        repo,
        facts.sha,
        config.get("model_type", MODEL_TYPE),
        {file.name: file for file in files},
        tuple(config.get("architectures") or ()),
    )


def _file(sibling: Any) -> HubFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    name, size = sibling.rfilename, sibling.size
    if "\0" in name or (size is not None and size < 0):
        raise ValueError(f"`{name!r}` of {size} bytes is no file")
    return HubFile(name, size, sha256 or sibling.blob_id, sha256)


def select_files(published: RepoListing) -> list[HubFile]:
    """Select the files to download, in the order of NEEDED_PATTERNS."""
    model, kind, files = published.repo, published.model_type, published.files
    other = describe_other_model(
        {"model_type": kind, "architectures": list(published.architectures)}
    )
    if other is not None:
        raise HubError(f"`{model}` is {other}")
    if kind not in MODEL_TYPES:
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
        _refuse(published)
    return list(needed.values())


def is_weights(name: str) -> bool:
    return fnmatch(name, WEIGHTS)


def _refuse(published: RepoListing) -> None:
    """Raise HubError describing a repository without a runnable model."""
    model, files = published.repo, published.files
    sizes = {name: file.size or 0 for name, file in files.items()}
    if not {ADAPTER_CONFIG, *ADAPTERS}.isdisjoint(files):
        raise HubError(
            f"`{model}` is an adapter (LoRA), not a model: give its model with `-m`, "
            f"and the adapter with `-a {model}`"
        )
    firsts = first_shards(name for name in files if name.endswith(GGUF))
    folders = model_folders(sizes)
    if folders:
        raise HubError(
            f"`{model}` has its models in folders: convert one of these by "
            "`mlx-gptoss convert NAME DST`, which downloads nothing else\n"
            + list_models(model, [*sorted(folders), *firsts], {**sizes, **folders})
        )
    if len(firsts) == 1:
        size = format_bytes(sum(sizes.get(part, 0) for part in list_shards(firsts[0])))
        fact = f"is published as GGUF ({size}), which is not run here"
        name = model.rpartition("/")[2].removesuffix("-GGUF")
        raise GgufOnlyError(
            str(needs_conversion(model, fact, name, is_here=False))
            + ", or choose a model published as safetensors"
        )
    if firsts:
        raise GgufOnlyError(
            f"`{model}` is published as GGUF, which is not run here: convert one of "
            f"these, with MXFP4 experts if there is one, by `mlx-gptoss convert NAME "
            f"DST`\n{list_models(model, firsts, sizes)}"
        )
    names = [name.rpartition("/")[2] for name in files]
    runtime = None if any(map(is_weights, names)) else describe_runtime(names)
    if runtime is not None:
        raise HubError(f"`{model}` {runtime}")
    raise HubError(
        f"`{model}` has no `{CONFIG}` with safetensors weights beside it: "
        "choose a model published as safetensors"
    )


def model_folders(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the folders that hold a config and weights, with the bytes in each."""
    found: dict[str, int] = {}
    for name, size in sizes.items():
        folder, inside, last = name.rpartition("/")
        if inside and is_weights(last) and f"{folder}/{CONFIG}" in sizes:
            found[folder] = found.get(folder, 0) + size
    return found
