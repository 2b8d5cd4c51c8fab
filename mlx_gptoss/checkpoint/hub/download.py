"""Download files of a repository into the cache, one by one, resumed and checked.

A repository is downloaded by one process at a time; others wait and then find the
files. The branch is set last, so that it never names an incomplete folder.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlx_gptoss.checkpoint.hub.library import (
    download_with_library,
    is_too_large_for_http,
    library,
)
from mlx_gptoss.checkpoint.hub.partial_file import PartialFile
from mlx_gptoss.checkpoint.hub.repo_folder import BRANCH, REPO_LOCK, RepoFolder
from mlx_gptoss.checkpoint.hub.repo_listing import HubFile
from mlx_gptoss.checkpoint.hub.retries import Notify, Sleep
from mlx_gptoss.checkpoint.hub.transfer import RemoteFile, Transfer, fetch_metadata
from mlx_gptoss.memory import format_bytes

LOGGER = logging.getLogger(__name__)

WORTH_RESUMING = 10**7  # bytes; the Hub publishes hashes of larger files

Progress = Callable[[int, int], None]  # bytes done, total bytes


@dataclass
class Download:
    """A download of `files` of a commit into `folder`."""

    endpoint: str | None
    folder: RepoFolder
    commit: str
    files: Sequence[HubFile]
    etags: set[str]  # of all files of the repository
    require_disk: Callable[[int], None]  # raises unless this many bytes fit
    sleep: Sleep
    progress: Progress | None = None
    notify: Notify | None = None
    _received: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def target(self) -> Path:
        """The folder that will contain the files."""
        return self.folder.path / "snapshots" / self.commit

    def missing(self) -> list[HubFile]:
        return [file for file in self.files if not self.folder.has(self.commit, file)]

    def run(self) -> None:
        """Download the missing files, counting what was received earlier."""
        with self.folder.locked(REPO_LOCK, self._notify_locked_repo):
            self._remove_stale()
            missing = self.missing()
            begun = {file.name: self.folder.partial_bytes(file) for file in missing}
            self._received = {
                f.name: begun.get(f.name, f.size or 0) for f in self.files
            }
            self.require_disk(sum((f.size or 0) - begun[f.name] for f in missing))
            if missing:
                self.folder.record_download(self.commit, self.files)
                self._report()
            for file in missing:
                self._fetch(file)
            self.folder.set_branch(BRANCH, self.commit)
            self.folder.forget_download()
            self._remove_stale()

    def _fetch(self, file: HubFile) -> None:
        folder, repo, name = self.folder, self.folder.repo, file.name
        url = library().hf_hub_url(
            repo, name, revision=self.commit, endpoint=self.endpoint
        )
        facts = fetch_metadata(repo, name, url, sleep=self.sleep, notify=self._notify)
        size = file.size if facts.size is None else facts.size
        remote = RemoteFile(repo, name, url, facts.etag, size, file.sha256)
        if is_too_large_for_http(size):
            self._fetch_by_library(name)
        else:
            with folder.locked(remote.etag, lambda: self._notify_locked_file(name)):
                if not folder.has_blob(remote.etag, size):
                    self._transfer(remote)
                folder.link(self.commit, name, remote.etag)
        self._received[name] = size or 0
        self._report()

    def _transfer(self, remote: RemoteFile) -> None:
        def report(come: int) -> None:
            self._received[remote.name] = come
            self._report()

        path = self.folder.partial_file(remote.etag)
        with PartialFile(path, hashed=remote.sha256 is not None) as part:
            if remote.sha256 is None and (remote.size or 0) < WORTH_RESUMING:
                part.clear()  # no hash could confirm the earlier bytes
            Transfer(remote, part, report, self._notify, self.sleep).run()
            part.move(self.folder.blob(remote.etag))

    def _fetch_by_library(self, name: str) -> None:
        def report(come: int) -> None:
            self._received[name] = come
            self._report()

        self._notify(
            f"`{name}` is downloaded by the hub library, which cannot resume it"
        )
        download_with_library(
            self.folder.repo,
            name,
            self.commit,
            endpoint=self.endpoint,
            cache=self.folder.cache,
            report=report,
        )

    def _remove_stale(self) -> None:
        if freed := self.folder.remove_stale_files(self.etags):
            self._notify(
                f"removed {format_bytes(freed)} left by interrupted downloads of "
                f"`{self.folder.repo}`"
            )

    def _report(self) -> None:
        if self.progress:
            total = sum(file.size or 0 for file in self.files)
            self.progress(min(sum(self._received.values()), total), total)

    def _notify_locked_repo(self) -> None:
        self._notify(
            f"`{self.folder.repo}` is already being downloaded: waiting for it"
        )

    def _notify_locked_file(self, name: str) -> None:
        self._notify(f"another program is downloading `{name}`: waiting for it")

    def _notify(self, line: str) -> None:
        (self.notify or LOGGER.info)(line)
