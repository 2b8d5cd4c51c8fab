"""Files replaced whole: every draft first, then every rename; the old ones are kept.

A draft stands beside its file under a name of its own and is locked while it is
written, so that the next run tells what a killed one left and takes it away. The old
file itself becomes the backup, with its owner, permissions and other names. Knows
files, not settings.
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlx_gptoss.errors import ConfigError

PRIVATE = 0o600  # of new files: they may hold a key
WRITABLE = 0o222
BACKUP = re.compile(r"\.backup-\d{8}-\d{6}(-\d+)?")


@dataclass(frozen=True)
class Replacement:
    """A file and its bytes to be; `before` is None for one that is not there yet."""

    path: Path
    before: bytes | None
    after: bytes


def read(path: Path) -> bytes | None:
    """Return what a settings file holds, None where there is none."""
    with _named(path):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"`{path}` is not a file; nothing was changed")
            return path.read_bytes()
        except FileNotFoundError:
            return None


def replace(replacements: Sequence[Replacement]) -> list[Path | None]:
    """Replace files; return the backup of each, None for a new one.

    Raises ConfigError, with all files as they were and nothing beside them, when one
    of them cannot be written.
    """
    with ExitStack() as drafts, ExitStack() as undo:
        staged = [(one, drafts.enter_context(_draft(one))) for one in replacements]
        backups = [_rename(one, draft, undo) for one, draft in staged]
        undo.pop_all()  # all are written
        return backups


@contextmanager
def _draft(one: Replacement) -> Iterator[Path]:
    """A draft of a file beside it, gone afterwards unless it was renamed."""
    path = one.path.resolve()  # a link stays one
    with _named(one.path), ExitStack() as undo:
        old = path.stat() if one.before is not None else None
        if old is not None:
            _check_writable(path, old)
        _make_folder(path.parent, undo)
        _sweep(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        undo.callback(Path(name).unlink, missing_ok=True)
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(one.after)
            file.flush()
            os.fsync(file.fileno())
            if old is not None:
                _copy_owner_and_mode(path, file.fileno(), old)
            else:
                os.fchmod(file.fileno(), PRIVATE)
            yield Path(name)


def _rename(one: Replacement, draft: Path, undo: ExitStack) -> Path | None:
    path = one.path.resolve()
    with _named(one.path):
        if read(path) != one.before:
            raise ConfigError(f"`{path}` was changed meanwhile: run this again")
        if one.before is None:
            os.replace(draft, path)
            undo.callback(path.unlink)
            return None
        backup = _make_backup(path)
        undo.callback(_put_back, backup, path)
        os.replace(draft, path)
        return backup


def _make_backup(path: Path) -> Path:
    """Give the old file a second name, for when a new one takes its first."""
    backup = _free_name(path)
    try:
        os.link(path, backup)
    except OSError:  # a file system without second names, or a file of somebody else
        handle, copy = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        os.close(handle)
        try:
            shutil.copy2(path, copy)
            os.replace(copy, backup)
        except BaseException:
            os.unlink(copy)
            raise
    return backup


def _put_back(backup: Path, path: Path) -> None:
    os.replace(backup, path)
    backup.unlink(missing_ok=True)  # both may name one file: then it is still there


def _check_writable(path: Path, old: os.stat_result) -> None:
    if not old.st_mode & WRITABLE:
        raise ConfigError(
            f"`{path}` is read-only; nothing was changed: `chmod u+w` it first, or "
            "change what it is made from"
        )


def _copy_owner_and_mode(path: Path, handle: int, old: os.stat_result) -> None:
    """Give a draft the owner and the permissions of the file it is to replace."""
    new = os.fstat(handle)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except PermissionError as error:
            raise ConfigError(
                f"`{path}` belongs to another user or group "
                f"({old.st_uid}:{old.st_gid}); nothing was changed: run this as that "
                "user, or `chown` it first"
            ) from error
    os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Make a folder; what was made goes again if it stays empty."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir()
        undo.callback(_remove_empty, one)


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _prefix(path: Path) -> str:
    return f".{path.name}.mlx-gptoss-"


def _sweep(path: Path) -> None:
    """Take away what a killed run left: its draft, and the name for its backup."""
    beside = list(path.parent.iterdir())
    for left in (one for one in beside if one.name.startswith(_prefix(path))):
        with left.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another run writes it now
            left.unlink(missing_ok=True)
    for left in beside:
        kept = left.name.removeprefix(path.name)
        if BACKUP.fullmatch(kept) and path.exists() and left.samefile(path):
            left.unlink()


def _free_name(path: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    backup = path.with_name(f"{path.name}.backup-{stamp}")
    number = 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.backup-{stamp}-{number}")
    return backup


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn a fault of the system into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"`{path}`: {error.strerror or error}; nothing was changed: check the "
            "disk, the folder and its permissions"
        ) from error
