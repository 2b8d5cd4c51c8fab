"""The Hub and its cache on disk: resolve, pull, list and delete models.

A model that is complete in the cache is used without a request to the Hub; `pull` gets
the newest version. The hub library's telemetry is disabled before use.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint.hub.cached_models import describe_missing, list_cached_models
from mlx_gptoss.checkpoint.hub.download import Download, Progress
from mlx_gptoss.checkpoint.hub.errors import hub_errors
from mlx_gptoss.checkpoint.hub.library import download_with_library, is_offline, library
from mlx_gptoss.checkpoint.hub.local_models import (
    CONFIG,
    DEMO,
    DEMO_FOLDER,
    GGUF,
    LocalModel,
    describe_model,
    explicit_folder,
    is_complete,
    is_empty_folder,
    local_folder,
)
from mlx_gptoss.checkpoint.hub.repo_folder import REPO_LOCK, RepoFolder
from mlx_gptoss.checkpoint.hub.repo_listing import (
    HubFile,
    RepoListing,
    fetch_listing,
    is_weights,
    select_files,
)
from mlx_gptoss.checkpoint.hub.retries import Notify, Sleep
from mlx_gptoss.errors import HubError
from mlx_gptoss.files import scratch, temporary_folder
from mlx_gptoss.memory import format_bytes

FREE_RESERVE = 10**9  # bytes of disk to leave free after a download

ModelCheck = Callable[[Path, int], None]  # config.json, bytes of all weight files


def _free_disk(path: Path) -> int:
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class Hub:
    """The Hub and its cache; None means the values of HF_ENDPOINT and HF_HOME."""

    endpoint: str | None = None
    cache: Path | None = None
    free_disk: Callable[[Path], int] = _free_disk
    sleep: Sleep = time.sleep  # between retries

    @property
    def folder(self) -> Path:
        """The folder of the cache; it may not exist yet."""
        return self.cache or Path(library().constants.HF_HUB_CACHE)

    def resolve(
        self,
        model: str,
        *,
        offline: bool = False,
        progress: Progress | None = None,
        check: ModelCheck | None = None,
        notify: Notify | None = None,
    ) -> Path:
        """Return the folder of `model`, downloading it if necessary.

        `check` is called before weights are downloaded, and may raise to refuse them.
        `notify` receives one line per event of the download, such as a retry.
        """
        here = local_folder(model) or self.cached(model)
        if here is not None:
            return here
        self.require_network(model, offline=offline)
        return self._download(model, progress, notify, check)

    def require_network(self, model: str, *, offline: bool) -> None:
        """Raise HubError if downloads are disabled."""
        if offline or is_offline():
            raise HubError(
                f"`{model}` {self._describe_missing(model)} and downloads are off: "
                f"run {self._download_command(model)} without `--offline` or "
                "`HF_HUB_OFFLINE`"
            )

    def _describe_missing(self, model: str) -> str:
        """Describe how much of a model is missing."""
        lack = describe_missing(RepoFolder(self.folder, model))
        if lack is not None:
            return lack
        here = " (the folder of that name here holds no weights)"
        return f"is not on this machine{here if is_empty_folder(model) else ''}"

    def _download_command(self, model: str) -> str:
        """Return the command that downloads a model; for GGUF files, `convert`."""
        _, files = RepoFolder(self.folder, model).read_download()
        is_gguf = any(file.name.endswith(GGUF) for file in files)
        return f"`mlx-gptoss {f'convert {model} DST' if is_gguf else f'pull {model}'}`"

    def pull(
        self,
        model: str,
        *,
        progress: Progress | None = None,
        notify: Notify | None = None,
    ) -> Path:
        """Download the newest files of a Hub id that are missing here.

        A download that was interrupted or killed is resumed.
        """
        if explicit_folder(model) is not None:
            raise HubError(f"`{model}` is already here: only Hub ids can be pulled")
        if is_offline():
            raise HubError(f"`HF_HUB_OFFLINE` is set: unset it to pull `{model}`")
        return self._download(model, progress, notify)

    def cached(self, model: str) -> Path | None:
        """Return the folder of a Hub id if it is complete."""
        folder = RepoFolder(self.folder, model).branch_folder()
        return folder if folder and is_complete(folder) else None

    def snapshot(self, repo: str) -> Path | None:
        """Return the folder of a Hub id, complete or not, if any."""
        return RepoFolder(self.folder, repo).snapshot()

    def list_files(self, repo: str) -> dict[str, int]:
        """Request the files of a repository: size by name."""
        with hub_errors(repo):
            files = fetch_listing(self.endpoint, repo).files
        return {file.name: file.size or 0 for file in files.values()}

    def fetch_files(
        self,
        repo: str,
        sizes: Mapping[str, int],
        progress: Progress | None,
        *,
        revision: str,
        notify: Notify | None = None,
    ) -> Path:
        """Download the files of `sizes` (size by name) that are missing here.

        Returns their folder.
        """
        with hub_errors(repo):
            published = fetch_listing(self.endpoint, repo, revision)
            gone = [name for name in sizes if name not in published.files]
            if gone:
                raise HubError(
                    f"`{gone[0]}` is no longer in `{repo}`: choose another file"
                )
            files = [published.files[name] for name in sizes]
            download = self._prepare(published, files, progress, notify)
            download.run()
        return download.target

    def list_models(self) -> list[LocalModel]:
        """List the demo and the gpt-oss models in the cache, by name.

        Includes interrupted downloads of any model.
        """
        demo = (
            [describe_model(DEMO, DEMO_FOLDER, None)]
            if is_complete(DEMO_FOLDER)
            else []
        )
        return demo + sorted(
            list_cached_models(self.folder), key=lambda model: model.name
        )

    def delete(self, model: str) -> int:
        """Remove a downloaded model from the cache; return the bytes freed."""
        if explicit_folder(model) is not None:
            raise HubError(f"`{model}` was not downloaded: only Hub ids can be deleted")
        repo = RepoFolder(self.folder, model)
        if not repo.path.is_dir():
            raise HubError(f"`{model}` is not on this machine: see `mlx-gptoss models`")

        def held() -> None:
            raise HubError(
                f"`{model}` is being downloaded: stop that, then delete the model"
            )

        with repo.locked(REPO_LOCK, held):
            sizes = {path: fact.st_size for path, fact in repo.stat_files().items()}
            if repo.is_shared():
                self._delete_shared(model)
            shutil.rmtree(repo.path, ignore_errors=not repo.path.exists())
        return sum(size for path, size in sizes.items() if not path.exists())

    def _delete_shared(self, model: str) -> None:
        """Let the library delete a model whose files other models may share."""
        cache = library().scan_cache_dir(self.folder)
        found = [r for r in cache.repos if (r.repo_type, r.repo_id) == ("model", model)]
        hashes = [x.commit_hash for repo in found for x in repo.revisions]
        cache.delete_revisions(*hashes).execute()

    def _download(
        self,
        model: str,
        progress: Progress | None,
        notify: Notify | None,
        check: ModelCheck | None = None,
    ) -> Path:
        with hub_errors(model):
            published = fetch_listing(self.endpoint, model)
            files = select_files(published)
            download = self._prepare(published, files, progress, notify)
            if check and download.missing():
                self._check(published, check)
            download.run()
        return self._downloaded(model)

    def _prepare(
        self,
        published: RepoListing,
        files: Sequence[HubFile],
        progress: Progress | None,
        notify: Notify | None,
    ) -> Download:
        return Download(
            endpoint=self.endpoint,
            folder=RepoFolder(self.folder, published.repo),
            commit=published.commit,
            files=files,
            etags=published.etags,
            require_disk=lambda needed: self._require_disk(published.repo, needed),
            sleep=self.sleep,
            progress=progress,
            notify=notify,
        )

    def _check(self, published: RepoListing, check: ModelCheck) -> None:
        """Run `check` on a config outside the cache; a refusal leaves nothing."""
        weights = (f.size or 0 for f in select_files(published) if is_weights(f.name))
        with scratch(temporary_folder()) as folder:
            config = download_with_library(
                published.repo,
                CONFIG,
                published.commit,
                endpoint=self.endpoint,
                local=folder,
            )
            check(config, sum(weights))

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
    check: ModelCheck | None = None,
    notify: Notify | None = None,
) -> Path:
    """Return the folder of `model`: `demo`, a path (`./x`, `~/x`, `/x`) or a Hub id.

    A local folder with weights takes precedence over a Hub id, with a warning.
    """
    return Hub().resolve(
        model, offline=offline, progress=progress, check=check, notify=notify
    )
