"""The folder of one repository in the Hub's cache, in the hub library's layout.

    models--owner--name/blobs/ETAG                    a complete file
    models--owner--name/blobs/ETAG.mlx-gptoss.incomplete   a partial file of ours
    models--owner--name/blobs/ETAG.RANDOM.incomplete  a partial file of the library
    models--owner--name/snapshots/COMMIT/NAME         a link to a blob
    models--owner--name/refs/main                     commit of a complete snapshot
    models--owner--name/.mlx-gptoss.json              files of an unfinished download
    .locks/models--owner--name/ETAG.lock              held while a blob is written

The library neither resumes nor removes its partial files; we remove them. Knows files
and locks, not the network.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.checkpoint.hub.library import library
from mlx_gptoss.checkpoint.hub.repo_listing import HubFile
from mlx_gptoss.checkpoint.json_files import read_json_or_empty
from mlx_gptoss.errors import HubError
from mlx_gptoss.files import NO_LINKS, write

PARTIAL_SUFFIX = ".mlx-gptoss.incomplete"
PARTIAL_NAME = re.compile(r"(?P<etag>.+?)(?:\.[0-9a-f]{8}|\.mlx-gptoss)?\.incomplete")
DOWNLOAD_RECORD = ".mlx-gptoss.json"
BRANCH = "main"
REPO_LOCK = "mlx-gptoss"  # the name of the repository's lock, which is no etag
# A partial file is in use while its lock is held. Some network file systems grant a
# lock to everyone; there a file counts as unused after a time without writes.
QUIET_SECONDS = 60
LOCK_SECONDS = 0.2  # to find out whether a lock is held
SAFE_NAME = re.compile(
    r"\w[\w.+=-]{0,150}", re.ASCII
)  # an etag or commit as a file name


@dataclass(frozen=True)
class RepoFolder:
    """A repository's files in the cache; the folder may not exist yet."""

    cache: Path
    repo: str

    @property
    def path(self) -> Path:
        return self.cache / self._name

    @property
    def _name(self) -> str:
        return f"models--{self.repo.replace('/', '--')}"

    def blob(self, etag: str) -> Path:
        return self.path / "blobs" / _require_safe(etag)

    def partial_file(self, etag: str) -> Path:
        return self.path / "blobs" / f"{_require_safe(etag)}{PARTIAL_SUFFIX}"

    def pointer(self, commit: str, name: str) -> Path:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise HubError(
                f"`{self.repo}` lists a file `{name}`, whose path leads out of its "
                "folder: use another model"
            )
        return self.path / "snapshots" / _require_safe(commit) / name

    def snapshot(self, branch: str = BRANCH) -> Path | None:
        """Return the snapshot of a branch, or else the newest, if any."""
        named = self.branch_folder(branch)
        if named is not None:
            return named
        found = [path for path in self.path.glob("snapshots/*") if path.is_dir()]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def branch_folder(self, branch: str = BRANCH) -> Path | None:
        """Return the snapshot of a branch, if both exist."""
        commit = self._commit(branch)
        folder = self.path / "snapshots" / commit
        return folder if commit and folder.is_dir() else None

    def _commit(self, branch: str) -> str:
        """Return the commit of a branch; "" if there is no valid ref."""
        try:
            commit = (self.path / "refs" / branch).read_text(encoding="ascii")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return ""
        return commit if _is_safe(commit) else ""

    def partial_files(self) -> Iterator[Path]:
        """List partial files, ours and the library's."""
        return self.path.glob("blobs/*.incomplete")

    def stat_files(self) -> dict[Path, os.stat_result]:
        """Stat the files with the bytes of this repository, each once."""
        found = (*self.path.glob("blobs/*"), *self.path.glob("snapshots/*/**/*"))
        facts = {path.resolve(): _stat(path) for path in found if path.is_file()}
        return {path: fact for path, fact in facts.items() if fact is not None}

    def is_shared(self) -> bool:
        """Whether blobs are links to a store of several repositories (hub 2.x)."""
        return any(path.is_symlink() for path in self.path.glob("blobs/*"))

    def has(self, commit: str, file: HubFile) -> bool:
        """Whether a file is present, with the size that the Hub gives."""
        return _has_size(self.pointer(commit, file.name), file.size)

    def has_blob(self, etag: str, size: int | None) -> bool:
        """Whether the bytes of a file are present, under any name."""
        return _has_size(self.blob(etag), size)

    def partial_bytes(self, file: HubFile) -> int:
        """Return how many bytes of a file were received."""
        if file.etag is None:
            return 0
        if self.has_blob(file.etag, file.size):
            return file.size or 0
        part = _stat(self.partial_file(file.etag))
        return min(part.st_size, file.size or 0) if part else 0

    def link(self, commit: str, name: str, etag: str) -> None:
        """Link a blob to its name, or move it there if links are not supported."""
        pointer, blob = self.pointer(commit, name), self.blob(etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not self._try_symlink(blob, pointer):
            blob.replace(pointer)

    def _try_symlink(self, blob: Path, pointer: Path) -> bool:
        """Create or replace a link atomically; False if links are not supported."""
        if library().constants.HF_HUB_DISABLE_SYMLINKS:
            return False
        draft = self.path / ".mlx-gptoss.link"
        draft.unlink(missing_ok=True)
        try:
            draft.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return False
        draft.replace(pointer)
        return True

    def set_branch(self, branch: str, commit: str) -> None:
        """Set the commit of a branch, after its files are complete."""
        ref = self.path / "refs" / branch
        ref.parent.mkdir(parents=True, exist_ok=True)
        if self._commit(branch) != commit:
            write(ref, commit, private=False)

    def record_download(self, commit: str, files: Iterable[HubFile]) -> None:
        """Record the files of a download, to report on it if it is interrupted."""
        facts = {file.name: [file.size, file.etag] for file in files}
        self.path.mkdir(parents=True, exist_ok=True)
        record = json.dumps({"commit": commit, "files": facts})
        write(self.path / DOWNLOAD_RECORD, record, private=False)

    def forget_download(self) -> None:
        (self.path / DOWNLOAD_RECORD).unlink(missing_ok=True)

    def read_download(self) -> tuple[str, list[HubFile]]:
        """Return the commit and files that `record_download` wrote; empty if none."""
        begun = read_json_or_empty(self.path / DOWNLOAD_RECORD)
        try:
            files = [
                HubFile(name, None if size is None else int(size), etag, None)
                for name, (size, etag) in begun["files"].items()
            ]
            for file in files:
                self.pointer(begun["commit"], file.name)
                self.partial_bytes(file)
        except (HubError, KeyError, TypeError, ValueError, AttributeError):
            return "", []  # damaged: treated as missing
        return begun["commit"], files

    def missing_bytes(self) -> int | None:
        """Return the missing bytes of an unfinished download; None without one."""
        commit, files = self.read_download()
        if not files:
            return None
        left = [file for file in files if not self.has(commit, file)]
        return sum((file.size or 0) - self.partial_bytes(file) for file in left)

    @contextmanager
    def locked(self, what: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a lock between processes; call `waiting` if another one holds it.

        `what` is an etag, as the library locks blobs, or REPO_LOCK.
        """
        from huggingface_hub.utils import WeakFileLock  # noqa: PLC0415 - half a second

        path = self._lock(what)
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(WeakFileLock(path, timeout=LOCK_SECONDS))
            except TimeoutError:
                waiting()
                held.enter_context(WeakFileLock(path))
            yield

    def remove_stale_files(self, current: set[str]) -> int:
        """Remove partial files neither in use nor resumable; return the bytes.

        `current` are the etags of the repository; our partial files of these are kept.
        """
        return sum(map(self._remove_unlocked, self._stale_files(current)))

    def _stale_files(self, current: set[str]) -> Iterator[tuple[Path, str]]:
        for path in self.partial_files():
            found, facts = PARTIAL_NAME.fullmatch(path.name), _stat(path)
            if found is None or facts is None:
                continue
            etag = found["etag"]
            if path.name == f"{etag}{PARTIAL_SUFFIX}":
                goes_on = not current or etag in current
                if goes_on and not self.blob(etag).exists():
                    continue
            elif time.time() - facts.st_mtime < QUIET_SECONDS:
                continue
            yield path, etag

    def _remove_unlocked(self, stale: tuple[Path, str]) -> int:
        path, etag = stale
        try:
            with self.locked(etag, _raise_locked):
                size = path.stat().st_size
                path.unlink()
                return size
        except (_LockedError, FileNotFoundError):
            return 0

    def _lock(self, what: str) -> Path:
        return self.cache / ".locks" / self._name / f"{_require_safe(what)}.lock"


class _LockedError(Exception):
    """Another process holds a lock."""


def _raise_locked() -> None:
    raise _LockedError


def _has_size(path: Path, size: int | None) -> bool:
    facts = _stat(path)
    return facts is not None and size in (None, facts.st_size)


def _stat(path: Path) -> os.stat_result | None:
    """Stat a file; None if it does not exist or another process removed it."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_safe(name: str) -> bool:
    return SAFE_NAME.fullmatch(name) is not None and ".." not in name


def _require_safe(name: str) -> str:
    """Check a name from the Hub before using it as a file name."""
    if not _is_safe(name):
        raise HubError(
            f"the Hub answered with `{name}` as an etag or commit, which "
            "cannot be a file name: check `HF_ENDPOINT`"
        )
    return name
