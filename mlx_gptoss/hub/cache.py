"""The Hub and its cache on disk: resolve a model, pull, list and delete.

A model that is whole in the cache is used without asking the Hub anything; `pull`
asks for what is newer. The hub library's telemetry is off before it is used.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from mlx_gptoss.errors import HubError
from mlx_gptoss.hub.errors import GgufOnlyError, named_errors
from mlx_gptoss.hub.folders import (
    CONFIG,
    DEMO,
    DEMO_FOLDER,
    HUB_ID,
    MODEL_TYPE,
    UNKNOWN,
    WEIGHTS,
    LocalModel,
    describe,
    empty_folder,
    is_complete,
    local_folder,
    named_folder,
    read_json,
)
from mlx_gptoss.memory import format_bytes

# What a model needs, in the order it comes: config.json last, so that a folder that
# has it has everything. Files in folders (`original/`, `metal/`) never match.
NEEDED = (WEIGHTS, "*.json", "*.jinja", "LICENSE*", CONFIG)
ADAPTERS = {"adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"}
BRANCH = "main"
REPOS = "models--*--*"  # how the cache names the folder of `owner/name`
UNFINISHED = "*.incomplete"  # and the part of a file that has come
FREE_RESERVE = 10**9  # bytes of disk to leave free after a download

Progress = Callable[[int, int], None]  # bytes done, bytes in all
Check = Callable[[Path, int], None]  # its config.json, bytes of all its weight files


def _free_disk(path: Path) -> int:
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class Hub:
    """The Hub and its cache; None means what HF_ENDPOINT and HF_HOME say."""

    endpoint: str | None = None
    cache: Path | None = None
    free_disk: Callable[[Path], int] = _free_disk

    @property
    def folder(self) -> Path:
        """The folder of the cache; it need not exist yet."""
        return self.cache or Path(library().constants.HF_HUB_CACHE)

    def resolve(
        self,
        model: str,
        *,
        offline: bool = False,
        progress: Progress | None = None,
        check: Check | None = None,
    ) -> Path:
        """Return the folder of `model`, downloading it if it is not here yet.

        `check` is called before weights are downloaded, and may raise to refuse them.
        """
        here = local_folder(model) or self.cached(model)
        if here is not None:
            return here
        self.require_network(model, offline=offline)
        return self._download(model, progress, check)

    def require_network(self, model: str, *, offline: bool) -> None:
        """Raise HubError where a download is needed and forbidden."""
        if offline or _offline():
            here = " (the folder of that name here holds no weights)"
            raise HubError(
                f"`{model}` is not on this machine"
                f"{here if empty_folder(model) else ''} and downloads are off: run "
                f"`mlx-gptoss pull {model}` without `--offline` or `HF_HUB_OFFLINE`"
            )

    def pull(self, model: str, *, progress: Progress | None = None) -> Path:
        """Download the newest files of a Hub id; what is here already is kept."""
        if named_folder(model) is not None:
            raise HubError(f"`{model}` is already here: only Hub ids can be pulled")
        if _offline():
            raise HubError(f"`HF_HUB_OFFLINE` is set: unset it to pull `{model}`")
        return self._download(model, progress)

    def cached(self, model: str) -> Path | None:
        """Return the folder of a Hub id if all of it was downloaded."""
        found = self._find(model, CONFIG, BRANCH)
        return found.parent if found and is_complete(found.parent) else None

    def snapshot(self, repo: str) -> Path | None:
        """Return the folder of what was downloaded of a Hub id, whole or not."""
        folder = self.folder / REPOS.replace("*--*", repo.replace("/", "--"))
        try:
            commit = (folder / "refs" / BRANCH).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return folder / "snapshots" / commit

    def listing(self, repo: str) -> dict[str, int]:
        """Ask the Hub for the files of a repository: size by name."""
        with named_errors(repo):
            api = library().HfApi(self.endpoint)
            facts = api.model_info(repo, files_metadata=True)
        return {file.rfilename: file.size or 0 for file in facts.siblings or ()}

    def fetch_files(
        self,
        repo: str,
        sizes: Mapping[str, int],
        progress: Progress | None,
        *,
        revision: str,
    ) -> Path:
        """Download the files of `sizes` (size by name) that are not here yet.

        Returns the folder they lie in.
        """
        with named_errors(repo):
            missing = [x for x in sizes if not self._find(repo, x, revision)]
            self._require_disk(repo, sum(sizes[name] for name in missing))
            total = sum(sizes.values())
            done = total - sum(sizes[name] for name in missing)
            for name in missing:
                self._fetch(repo, name, revision, _progress_bar(done, total, progress))
                done += sizes[name]
        folder = self.snapshot(repo)
        assert folder is not None, f"{repo=} has no ref after a download"
        return folder

    def models(self) -> list[LocalModel]:
        """List the demo and the gpt-oss models in the cache, by name.

        Among them is what an interrupted download left, of whatever model that was.
        """
        demo = [describe(DEMO, DEMO_FOLDER, None)] if is_complete(DEMO_FOLDER) else []
        found = self._interrupted()
        for repo in self._repos():
            newest = max(repo.revisions, key=lambda revision: revision.last_modified)
            folder = newest.snapshot_path
            if read_json(folder / CONFIG).get("model_type") == MODEL_TYPE:
                used, size = repo.last_accessed, repo.size_on_disk
                found.append(describe(repo.repo_id, folder, used, size))
        return demo + sorted(found, key=lambda model: model.name)

    def delete(self, model: str) -> int:
        """Remove a downloaded model from the cache; return the bytes freed."""
        if named_folder(model) is not None:
            raise HubError(f"`{model}` was not downloaded: only Hub ids can be deleted")
        folder = self.folder / REPOS.replace("*--*", model.replace("/", "--"))
        if not folder.is_dir():
            raise HubError(f"`{model}` is not on this machine: see `mlx-gptoss models`")
        freed = sum(path.stat().st_size for path in _files(folder))
        shutil.rmtree(folder)
        return freed

    def _find(self, model: str, name: str, revision: str) -> Path | None:
        found = library().try_to_load_from_cache(
            model, name, cache_dir=self.folder, revision=revision
        )
        return Path(found) if isinstance(found, str) else None

    def _interrupted(self) -> list[LocalModel]:
        """List what has weights or parts of files, but no config.json: that is last."""
        found = []
        for repo in self.folder.glob(REPOS):
            name = repo.name.split("--", 1)[1].replace("--", "/")
            begun = (*repo.glob(f"snapshots/*/{WEIGHTS}"), *repo.rglob(UNFINISHED))
            if not HUB_ID.fullmatch(name) or not begun:
                continue
            if any(repo.glob(f"snapshots/*/{CONFIG}")):
                continue
            facts = [path.stat() for path in _files(repo)]
            size = sum(fact.st_size for fact in facts)
            used = max((fact.st_mtime for fact in facts), default=None)
            found.append(LocalModel(name, repo, size, UNKNOWN, used, complete=False))
        return found

    def _repos(self) -> list[Any]:
        if not self.folder.is_dir():
            return []
        repos = library().scan_cache_dir(self.folder).repos
        return [repo for repo in repos if repo.repo_type == "model" and repo.revisions]

    def _download(
        self, model: str, progress: Progress | None, check: Check | None = None
    ) -> Path:
        """Fetch file by file, so that an interruption loses one file at most."""
        with named_errors(model):
            facts = (
                library().HfApi(self.endpoint).model_info(model, files_metadata=True)
            )
            sizes = _needed_files(model, facts)
            missing = [n for n in sizes if not self._find(model, n, facts.sha)]
            if check and missing:
                self._check(model, facts.sha, check, _weight_bytes(sizes))
            self._require_disk(model, sum(sizes[name] for name in missing))
            done = sum(sizes.values()) - sum(sizes[name] for name in missing)
            for name in missing:
                self._fetch(
                    model,
                    name,
                    facts.sha,
                    _progress_bar(done, sum(sizes.values()), progress),
                )
                done += sizes[name]
            # Written down last: the branch never names a folder with holes.
            self._fetch(model, CONFIG, BRANCH, _progress_bar(done, done, None))
        return self._downloaded(model)

    def _fetch(self, model: str, name: str, revision: str, bar: type) -> None:
        library().hf_hub_download(
            model,
            name,
            revision=revision,
            cache_dir=self.folder,
            endpoint=self.endpoint,
            tqdm_class=bar,
        )

    def _check(self, model: str, revision: str, check: Check, weights: int) -> None:
        """Show `check` the config, outside the cache: a refusal leaves nothing."""
        with TemporaryDirectory() as folder:
            config = library().hf_hub_download(
                model,
                CONFIG,
                revision=revision,
                local_dir=folder,
                endpoint=self.endpoint,
                tqdm_class=_progress_bar(0, 0, None),
            )
            check(Path(config), weights)

    def _require_disk(self, model: str, needed: int) -> None:
        cache = self.folder
        cache.mkdir(parents=True, exist_ok=True)
        free = self.free_disk(cache)
        if needed and needed + FREE_RESERVE > free:
            raise HubError(
                f"`{model}` needs {format_bytes(needed)} more on disk, but `{cache}` "
                f"has {format_bytes(free)} free: make room, or set `HF_HOME` to a "
                "larger disk"
            )

    def _downloaded(self, model: str) -> Path:
        folder = self.cached(model)
        if folder is None:
            raise HubError(
                f"`{model}` was published without some of the weight files that its "
                "index names: use another model, or tell its author"
            )
        return folder


def resolve(
    model: str,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    check: Check | None = None,
) -> Path:
    """Return the folder of `model`: `demo`, a path (`./x`, `~/x`, `/x`) or a Hub id.

    A folder here that holds weights goes before a Hub id, with a warning.
    """
    return Hub().resolve(model, offline=offline, progress=progress, check=check)


def library() -> ModuleType:
    """Import huggingface_hub with its telemetry off, whoever imported it before."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub  # noqa: PLC0415 - half a second
    from huggingface_hub import constants  # noqa: PLC0415

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _files(folder: Path) -> list[Path]:
    """List the files in a folder of the cache, each once: links are left out."""
    return [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]


def _offline() -> bool:
    return bool(library().constants.HF_HUB_OFFLINE)


def _needed_files(model: str, facts: Any) -> dict[str, int]:
    """Name and size of the files to fetch, in the order of NEEDED."""
    kind = (facts.config or {}).get("model_type", MODEL_TYPE)
    if kind != MODEL_TYPE:
        raise HubError(f"`{model}` is a `{kind}` model: only gpt-oss models run here")
    sizes = {file.rfilename: file.size or 0 for file in facts.siblings or ()}
    top = sorted(name for name in sizes if "/" not in name)
    needed: dict[str, int] = {}
    for pattern in NEEDED:
        for name in top:
            if fnmatch(name, pattern):
                needed.pop(name, None)  # the last pattern that matches decides
                needed[name] = sizes[name]
    weights = {name for name in needed if fnmatch(name, WEIGHTS)}
    if CONFIG not in needed or weights <= ADAPTERS:
        if not ADAPTERS.isdisjoint(sizes):
            raise HubError(
                f"`{model}` is an adapter (LoRA), not a model: merge it into its model "
                "with the tool that made it, and give the merged folder"
            )
        if _has_gguf(sizes):
            raise GgufOnlyError(
                f"`{model}` is published as GGUF, which is not run here: convert it "
                f"with `mlx-gptoss convert {model} DST`, or choose a model published "
                "as safetensors"
            )
        raise HubError(
            f"`{model}` has no `{CONFIG}` with safetensors weights beside it: "
            "choose a model published as safetensors"
        )
    return needed


def _weight_bytes(sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if fnmatch(name, WEIGHTS))


def _has_gguf(names: dict[str, int]) -> bool:
    return any(name.endswith(".gguf") for name in names)


def _progress_bar(before: int, total: int, progress: Progress | None) -> type:
    """Return a stand-in for tqdm that reports to `progress` and never prints."""
    from huggingface_hub.utils import tqdm  # noqa: PLC0415

    class Reporter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # hf_xet has a second bar for the network; it counts the same file.
            self.counts = not (options.get("name") or "").endswith(".transfer")
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if progress and self.counts:
                progress(min(before + int(self.n), total), total)
            return None

    return Reporter
