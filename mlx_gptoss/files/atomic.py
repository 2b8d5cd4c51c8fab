"""Write files whole or not at all, and explain what the disk refuses.

A file is written as a draft beside its target, synced and renamed, so readers see the
old file or the new one. The writing process holds a lock on its draft or scratch
folder; an unlocked one was left by a killed process and is removed by the next write to
that folder. Devices and pipes are written in place. Raises StorageError. Knows nothing
of file contents.
"""

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_gptoss.errors import StorageError

OWNER_FILE, OWNER_FOLDER, ANY_FILE = 0o600, 0o700, 0o666
PREFIX = ".mlx-gptoss-"
DRAFT, SCRATCH = ".draft", ".scratch"
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
NO_SYNC = {errno.EACCES, errno.EINVAL, errno.ENOTSUP}

FULL = {errno.ENOSPC, errno.EDQUOT}
REASONS = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your disk quota is used up: make room",
    errno.EFBIG: "it would be larger than this system allows: see `ulimit -f`",
    errno.EROFS: "the disk is read-only: choose another place",
    errno.ENOENT: "its folder does not exist: create it first",
    errno.EISDIR: "it is a folder: choose another name",
    errno.EEXIST: "it already exists: choose another name",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
    errno.ELOOP: "its path has a loop of symbolic links",
    errno.EIO: "the disk failed: check it",
}


def explain_os_error(error: OSError) -> str:
    """Return the reason for a refusal and the remedy, without the file's name."""
    if error.errno is None:  # NumPy raises this for a short write
        return f"the disk is full ({error}): make room"
    if known := REASONS.get(error.errno):
        return known
    return f"{error.strerror or error}; check the path and its permissions"


@contextmanager
def storage_errors(path: Path, failed: str = "written") -> Iterator[None]:
    """Turn an OSError into a StorageError: `path` cannot be `failed`, and why."""
    try:
        yield
    except OSError as error:
        why = explain_os_error(error)
        full = error.errno in FULL
        raise StorageError(
            f"`{path}` cannot be {failed}: {why}", reason=why, full=full
        ) from error


def write(
    path: Path, content: str | bytes, *, private: bool = True, replace: bool = True
) -> None:
    """Write a whole file; text as UTF-8, with `?` for what UTF-8 cannot encode.

    A `private` file is readable by its owner only; otherwise it keeps its mode, and a
    new one gets the mode of the umask. Without `replace` an existing file is an error.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "replace")
    with draft(path, private=private, replace=replace) as place, place.open("wb") as f:
        f.write(content)


@contextmanager
def draft(path: Path, *, private: bool = True, replace: bool = True) -> Iterator[Path]:
    """Yield a draft with the suffix of `path`; rename it to `path` on success.

    See `write` for the options.
    """
    with storage_errors(path):
        if _is_special(path):
            yield path
            return
        target = _follow_own_link(path)
        remove_stale(target.parent)
        place, lock = _locked_draft(target, OWNER_FILE if private else ANY_FILE)
        try:
            if not private and target.exists():
                place.chmod(stat.S_IMODE(target.stat().st_mode))
            yield place
            sync(place)
            _rename(place, target, replace=replace)
        finally:  # after a rename the draft no longer exists
            place.unlink(missing_ok=True)
            os.close(lock)
        sync_folder(target.parent)


def require_writable(path: Path) -> None:
    """Raise StorageError if `path` cannot be written, before there is content."""
    with storage_errors(path):
        if not _is_special(path):
            place, lock = _locked_draft(_follow_own_link(path), OWNER_FILE)
            place.unlink()
            os.close(lock)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a new private folder within `folder`; remove it and its content at exit."""
    with storage_errors(folder):
        remove_stale(folder)
        inside, lock = _locked_folder(folder)
    try:
        yield inside
    finally:
        shutil.rmtree(inside, ignore_errors=True)
        os.close(lock)


def temporary_folder() -> Path:
    """Return the system's temporary folder. Raises StorageError if none is writable."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # none of the candidates can be written
        raise StorageError(
            "no folder for temporary files can be written: make room, or set `TMPDIR`"
        ) from error


def make_folder(folder: Path) -> None:
    """Create a folder of mode 0700, and its parents, unless it exists."""
    with storage_errors(folder):
        folder.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, on file systems that can."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def is_draft(path: Path) -> bool:
    """Whether a name is that of a draft, of a running process or a killed one."""
    return path.name.startswith(PREFIX) and DRAFT in path.name


def remove_stale(folder: Path) -> None:
    """Remove drafts and scratch folders in `folder` that killed processes left."""
    for path in folder.glob(f"{PREFIX}*"):
        if DRAFT not in path.name and path.suffix != SCRATCH:
            continue
        with suppress(OSError):  # locked, removed meanwhile, or of another user
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid != os.geteuid():
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(lock)


def _is_special(path: Path) -> bool:
    """Whether it is a device or a pipe, which a rename would replace."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode)


def _follow_own_link(path: Path) -> Path:
    """Resolve a link that the user owns; another user's could be a trap."""
    if path.is_symlink() and path.lstat().st_uid == os.geteuid():
        return path.resolve()
    return path


def _locked_draft(target: Path, mode: int) -> tuple[Path, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        place = target.with_name(_random_name() + DRAFT + target.suffix)
        handle = os.open(place, flags, mode)
        if _lock(handle):
            return place, handle


def _locked_folder(folder: Path) -> tuple[Path, int]:
    while True:
        inside = folder / (_random_name() + SCRATCH)
        inside.mkdir(OWNER_FOLDER)
        handle = os.open(inside, os.O_RDONLY | os.O_CLOEXEC)
        if _lock(handle):
            return inside, handle


def _random_name() -> str:
    return PREFIX + secrets.token_hex(6)


def _lock(handle: int) -> bool:
    """Lock a new draft; False if another process removed it as stale."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # a file system without locks: nothing on it is removed as stale
        return True
    if os.fstat(handle).st_nlink:
        return True
    os.close(handle)
    return False


def _rename(place: Path, target: Path, *, replace: bool) -> None:
    if replace:
        place.replace(target)
        return
    try:
        os.link(place, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # must be new
        place.replace(target)
