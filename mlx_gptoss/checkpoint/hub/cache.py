"""The Hub and its cache on disk: resolve a model, pull, list and delete.

A model that is whole in the cache is used without asking the Hub anything; `pull`
asks for what is newer. The hub library's telemetry is off before it is used.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlx_gptoss.checkpoint.hub.cached_models import describe_lack, stored_models
from mlx_gptoss.checkpoint.hub.download import Download, Progress
from mlx_gptoss.checkpoint.hub.errors import named_errors
from mlx_gptoss.checkpoint.hub.library import fetch_by_library, is_offline, library
from mlx_gptoss.checkpoint.hub.local_models import (
    CONFIG,
    DEMO,
    DEMO_FOLDER,
    GGUF,
    LocalModel,
    describe,
    empty_folder,
    is_complete,
    local_folder,
    named_folder,
)
from mlx_gptoss.checkpoint.hub.repo_folder import WHOLE, RepoFolder
from mlx_gptoss.checkpoint.hub.repo_listing import (
    HubFile,
    Published,
    ask,
    is_weights,
    needed_files,
)
from mlx_gptoss.checkpoint.hub.retries import Say, Wait
from mlx_gptoss.errors import HubError
from mlx_gptoss.memory import format_bytes

FREE_RESERVE = 10**9  # bytes of disk to leave free after a download

Check = Callable[[Path, int], None]  # its config.json, bytes of all its weight files


def _free_disk(path: Path) -> int:
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class Hub:
    """The Hub and its cache; None means what HF_ENDPOINT and HF_HOME say."""

    endpoint: str | None = None
    cache: Path | None = None
    free_disk: Callable[[Path], int] = _free_disk
    wait: Wait = time.sleep  # between tries

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
        say: Say | None = None,
    ) -> Path:
        """Return the folder of `model`, downloading it if it is not here yet.

        `check` is called before weights are downloaded, and may raise to refuse them.
        `say` is told in a line what a download does besides: it waits, it tries again.
        """
        here = local_folder(model) or self.cached(model)
        if here is not None:
            return here
        self.require_network(model, offline=offline)
        return self._download(model, progress, say, check)

    def require_network(self, model: str, *, offline: bool) -> None:
        """Raise HubError where a download is needed and forbidden."""
        if offline or is_offline():
            raise HubError(
                f"`{model}` {self._lack(model)} and downloads are off: run "
                f"{self._again(model)} without `--offline` or `HF_HUB_OFFLINE`"
            )

    def _lack(self, model: str) -> str:
        """Say that a model is not here, or how much of it is not."""
        lack = describe_lack(RepoFolder(self.folder, model))
        if lack is not None:
            return lack
        here = " (the folder of that name here holds no weights)"
        return f"is not on this machine{here if empty_folder(model) else ''}"

    def _again(self, model: str) -> str:
        """Name what downloads a model: GGUF files come with their conversion."""
        _, files = RepoFolder(self.folder, model).begun()
        is_gguf = any(file.name.endswith(GGUF) for file in files)
        return f"`mlx-gptoss {f'convert {model} DST' if is_gguf else f'pull {model}'}`"

    def pull(
        self,
        model: str,
        *,
        progress: Progress | None = None,
        say: Say | None = None,
    ) -> Path:
        """Download the newest files of a Hub id; what is here already is kept.

        A download that was interrupted, or killed, goes on where it stopped.
        """
        if named_folder(model) is not None:
            raise HubError(f"`{model}` is already here: only Hub ids can be pulled")
        if is_offline():
            raise HubError(f"`HF_HUB_OFFLINE` is set: unset it to pull `{model}`")
        return self._download(model, progress, say)

    def cached(self, model: str) -> Path | None:
        """Return the folder of a Hub id if all of it was downloaded."""
        folder = RepoFolder(self.folder, model).named()
        return folder if folder and is_complete(folder) else None

    def snapshot(self, repo: str) -> Path | None:
        """Return the folder of what was downloaded of a Hub id, whole or not."""
        return RepoFolder(self.folder, repo).snapshot()

    def listing(self, repo: str) -> dict[str, int]:
        """Ask the Hub for the files of a repository: size by name."""
        with named_errors(repo):
            files = ask(self.endpoint, repo).files
        return {file.name: file.size or 0 for file in files.values()}

    def fetch_files(
        self,
        repo: str,
        sizes: Mapping[str, int],
        progress: Progress | None,
        *,
        revision: str,
        say: Say | None = None,
    ) -> Path:
        """Download the files of `sizes` (size by name) that are not here yet.

        Returns the folder they lie in.
        """
        with named_errors(repo):
            published = ask(self.endpoint, repo, revision)
            gone = [name for name in sizes if name not in published.files]
            if gone:
                raise HubError(
                    f"`{gone[0]}` is gone from `{repo}`: choose another file"
                )
            files = [published.files[name] for name in sizes]
            download = self._prepare(published, files, progress, say)
            download.run()
        return download.target

    def models(self) -> list[LocalModel]:
        """List the demo and the gpt-oss models in the cache, by name.

        Among them is what an interrupted download left, of whatever model that was.
        """
        demo = [describe(DEMO, DEMO_FOLDER, None)] if is_complete(DEMO_FOLDER) else []
        return demo + sorted(stored_models(self.folder), key=lambda model: model.name)

    def delete(self, model: str) -> int:
        """Remove a downloaded model from the cache; return the bytes freed."""
        if named_folder(model) is not None:
            raise HubError(f"`{model}` was not downloaded: only Hub ids can be deleted")
        repo = RepoFolder(self.folder, model)
        if not repo.path.is_dir():
            raise HubError(f"`{model}` is not on this machine: see `mlx-gptoss models`")

        def held() -> None:
            raise HubError(
                f"`{model}` is being downloaded: stop that, then delete the model"
            )

        with repo.locked(WHOLE, held):
            sizes = {path: fact.st_size for path, fact in repo.contents().items()}
            if repo.is_shared():
                self._delete_shared(model)
            shutil.rmtree(repo.path, ignore_errors=not repo.path.exists())
        return sum(size for path, size in sizes.items() if not path.exists())

    def _delete_shared(self, model: str) -> None:
        """Let the library delete a model: files may belong to others, too."""
        cache = library().scan_cache_dir(self.folder)
        found = [r for r in cache.repos if (r.repo_type, r.repo_id) == ("model", model)]
        hashes = [x.commit_hash for repo in found for x in repo.revisions]
        cache.delete_revisions(*hashes).execute()

    def _download(
        self,
        model: str,
        progress: Progress | None,
        say: Say | None,
        check: Check | None = None,
    ) -> Path:
        with named_errors(model):
            published = ask(self.endpoint, model)
            files = needed_files(published)
            download = self._prepare(published, files, progress, say)
            if check and download.missing():
                self._check(published, check)
            download.run()
        return self._downloaded(model)

    def _prepare(
        self,
        published: Published,
        files: Sequence[HubFile],
        progress: Progress | None,
        say: Say | None,
    ) -> Download:
        return Download(
            endpoint=self.endpoint,
            folder=RepoFolder(self.folder, published.repo),
            commit=published.commit,
            files=files,
            etags=published.etags,
            require_disk=lambda needed: self._require_disk(published.repo, needed),
            wait=self.wait,
            progress=progress,
            say=say,
        )

    def _check(self, published: Published, check: Check) -> None:
        """Show `check` the config, outside the cache: a refusal leaves nothing."""
        weights = (f.size or 0 for f in needed_files(published) if is_weights(f.name))
        with TemporaryDirectory() as folder:
            config = fetch_by_library(
                published.repo,
                CONFIG,
                published.commit,
                endpoint=self.endpoint,
                local=Path(folder),
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
    check: Check | None = None,
    say: Say | None = None,
) -> Path:
    """Return the folder of `model`: `demo`, a path (`./x`, `~/x`, `/x`) or a Hub id.

    A folder here that holds weights goes before a Hub id, with a warning.
    """
    return Hub().resolve(
        model, offline=offline, progress=progress, check=check, say=say
    )
