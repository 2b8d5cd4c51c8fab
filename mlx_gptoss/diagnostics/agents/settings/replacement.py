"""Replace several files: all of them or none, keeping the old ones as backups.

All drafts are written before the first is renamed. A backup is the old file itself
under another name, with its owner, permissions and hard links. Knows files, not
settings.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlx_gptoss import files
from mlx_gptoss.errors import ConfigError, StorageError

WRITABLE = 0o222
BACKUP = re.compile(r"\.backup-\d{8}-\d{6}(-\d+)?")


@dataclass(frozen=True)
class Replacement:
    """A file with its old and new content; `before` is None for a new file."""

    path: Path
    before: bytes | None
    after: bytes


def read(path: Path) -> bytes | None:
    """Return the content of a settings file, None if there is none."""
    with _config_errors(path):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"`{path}` is not a file; nothing was changed")
            return path.read_bytes()
        except FileNotFoundError:
            return None


def replace(replacements: Sequence[Replacement]) -> list[Path | None]:
    """Replace files; return the backup of each, None for a new file.

    Raises ConfigError if any of them cannot be written; then all files are unchanged
    and no drafts or backups remain.
    """
    with ExitStack() as undo:
        with ExitStack() as drafts:  # leaving it renames them, last entered first
            for one in reversed(replacements):
                drafts.enter_context(_draft(one, undo))
            backups = [_back_up(one, undo) for one in replacements]
        undo.pop_all()  # all files are written
        return backups


@contextmanager
def _draft(one: Replacement, undo: ExitStack) -> Iterator[None]:
    """Write a draft of a file; rename it when the block succeeds."""
    path = one.path.resolve()  # keep a symbolic link
    with _config_errors(one.path):
        old = path.stat() if one.before is not None else None
        if old is not None:
            _check_writable(path, old)
        _make_folder(path.parent, undo)
        _remove_stale_backups(path)
        with files.draft(path) as draft:
            draft.write_bytes(one.after)
            if old is not None:
                _copy_owner_and_mode(path, draft, old)
            yield


def _back_up(one: Replacement, undo: ExitStack) -> Path | None:
    """Back up the old file, and register how to undo the replacement."""
    path = one.path.resolve()
    with _config_errors(one.path):
        if read(path) != one.before:
            raise ConfigError(f"`{path}` was changed meanwhile: run this again")
        if one.before is None:
            undo.callback(path.unlink, missing_ok=True)
            return None
        backup = _make_backup(path)
        undo.callback(_restore, backup, path)
        return backup


def _make_backup(path: Path) -> Path:
    """Give the old file a second name, kept when a new file takes its first."""
    backup = _free_name(path)
    try:
        os.link(path, backup)
    except OSError:  # a file system without hard links, or another user's file
        with files.draft(backup) as copy:
            shutil.copy2(path, copy)
    return backup


def latest_backup(path: Path) -> Path | None:
    """Return the newest backup of a file, None if there is none."""
    path = path.resolve()
    found = [
        one
        for one in path.parent.glob("*.backup-*")
        if BACKUP.fullmatch(one.name.removeprefix(path.name))
    ]
    return max(found, key=lambda one: one.name, default=None)


def _restore(backup: Path, path: Path) -> None:
    os.replace(backup, path)
    backup.unlink(missing_ok=True)  # still there if both names are one file


def _check_writable(path: Path, old: os.stat_result) -> None:
    if not old.st_mode & WRITABLE:
        raise ConfigError(
            f"`{path}` is read-only; nothing was changed: `chmod u+w` it first, or "
            "change the file it is generated from"
        )


def _copy_owner_and_mode(path: Path, draft: Path, old: os.stat_result) -> None:
    """Give a draft the owner and permissions of the file it replaces."""
    new = draft.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.chown(draft, old.st_uid, old.st_gid)
        except PermissionError as error:
            raise ConfigError(
                f"`{path}` belongs to another user or group "
                f"({old.st_uid}:{old.st_gid}); nothing was changed: run this as that "
                "user, or `chown` it first"
            ) from error
    draft.chmod(stat.S_IMODE(old.st_mode))


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Make a folder and its parents; `undo` removes those that stay empty."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir()
        undo.callback(_remove_empty, one)


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove_stale_backups(path: Path) -> None:
    """Remove backups of a killed run: they are hard links to the current file."""
    for beside in list(path.parent.iterdir()):
        ending = beside.name.removeprefix(path.name)
        if BACKUP.fullmatch(ending) and path.exists() and beside.samefile(path):
            beside.unlink()


def _free_name(path: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    backup = path.with_name(f"{path.name}.backup-{stamp}")
    number = 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.backup-{stamp}-{number}")
    return backup


@contextmanager
def _config_errors(path: Path) -> Iterator[None]:
    """Turn a system error into a ConfigError that names the file."""
    try:
        yield
    except (StorageError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StorageError) else error
        what = cause.strerror if isinstance(cause, OSError) else None
        raise ConfigError(
            f"`{path}`: {what or error}; nothing was changed: check the disk, the "
            "folder and its permissions"
        ) from error
