"""Files that are written whole or not at all, and what to say when that fails.

    write(path, "text")                   # for the owner's eyes only
    with draft(path) as place: ...        # where a library writes the file itself
    with scratch(folder) as inside: ...   # a folder that goes away again

A file is made as a draft beside its place, brought to the disk, and renamed: whoever
looks finds the old file or the new one. Its process holds a lock on a draft and on a
scratch folder. One that nobody has locked was left by a process that was killed, and
goes when something else is written to the same folder. Devices and pipes are written to
as they are. Everything here raises StorageError. Knows nothing of what it writes.
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
    errno.EDQUOT: "your share of the disk is used up: make room",
    errno.EFBIG: "it would be larger than this system allows: see `ulimit -f`",
    errno.EROFS: "the disk is read-only: choose another place",
    errno.ENOENT: "its folder is not there: make it first",
    errno.EISDIR: "it is a folder: choose another name",
    errno.EEXIST: "it is there already: choose another name",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
    errno.ELOOP: "the links in its path lead in a circle",
    errno.EIO: "the disk failed: check it",
}


def explain_os_error(error: OSError) -> str:
    """Return why the system refused, and what to do; names no file."""
    if error.errno is None:  # NumPy's, of a write that came to an end too early
        return f"the disk takes no more ({error}): make room"
    if known := REASONS.get(error.errno or 0):
        return known
    return f"{error.strerror or error}; check the path and its permissions"


@contextmanager
def storage_errors(path: Path, failed: str = "written") -> Iterator[None]:
    """Turn an OSError into a StorageError: `path` cannot be written, or `failed`."""
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
    """Write a whole file: text as UTF-8, with `?` for what UTF-8 cannot say.

    With `private` its owner alone may read it; else it keeps the mode it has, and a
    new one gets what the umask leaves. Without `replace` no other file is written over.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "replace")
    with draft(path, private=private, replace=replace) as place, place.open("wb") as f:
        f.write(content)


@contextmanager
def draft(path: Path, *, private: bool = True, replace: bool = True) -> Iterator[Path]:
    """Give the place to write `path` to; it becomes `path` when the block ends well.

    It has the ending of `path`. See `write` for the options.
    """
    with storage_errors(path):
        if _is_special(path):
            yield path
            return
        target = _followed(path)
        remove_stale(target.parent)
        mode = OWNER_FILE if private else ANY_FILE
        place, lock = _locked_draft(target, mode)
        try:
            if not private and target.exists():
                place.chmod(stat.S_IMODE(target.stat().st_mode))
            yield place
            sync(place)
            _rename(place, target, replace=replace)
        finally:  # after a rename there is nothing of that name
            place.unlink(missing_ok=True)
            os.close(lock)
        sync_folder(target.parent)


def require_writable(path: Path) -> None:
    """Raise StorageError if `path` cannot be written, before there is anything to."""
    with storage_errors(path):
        if not _is_special(path):
            place, lock = _locked_draft(_followed(path), OWNER_FILE)
            place.unlink()
            os.close(lock)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Give a new private folder within `folder`, and remove it and all in it."""
    with storage_errors(folder):
        remove_stale(folder)
        inside, lock = _locked_folder(folder)
    try:
        yield inside
    finally:
        shutil.rmtree(inside, ignore_errors=True)
        os.close(lock)


def temporary_folder() -> Path:
    """Return the system's folder for scratch. Raises StorageError for a full disk."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # none of those it tries can be written
        raise StorageError(
            "no folder for temporary files can be written: make room, or set `TMPDIR`"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder for its owner alone, and those above it, if it is not there."""
    with storage_errors(folder):
        folder.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Bring what was written to a file or folder to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where that can be asked for."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def is_draft(path: Path) -> bool:
    """Whether a name is that of a draft, of a running process or a dead one."""
    return path.name.startswith(PREFIX) and DRAFT in path.name


def remove_stale(folder: Path) -> None:
    """Remove the drafts and scratch folders in `folder` whose process was killed."""
    for path in folder.glob(f"{PREFIX}*"):
        if DRAFT not in path.name and path.suffix != SCRATCH:
            continue
        with suppress(OSError):  # locked, gone, or of another user
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
    """Whether it is a device or a pipe, which a rename would do away with."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode)


def _followed(path: Path) -> Path:
    """Return where a link leads that is the user's own; others' may be traps."""
    if path.is_symlink() and path.lstat().st_uid == os.geteuid():
        return path.resolve()
    return path


def _locked_draft(target: Path, mode: int) -> tuple[Path, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        place = target.with_name(_name() + DRAFT + target.suffix)
        handle = os.open(place, flags, mode)
        if _lock(handle):
            return place, handle


def _locked_folder(folder: Path) -> tuple[Path, int]:
    while True:
        inside = folder / (_name() + SCRATCH)
        inside.mkdir(OWNER_FOLDER)
        handle = os.open(inside, os.O_RDONLY | os.O_CLOEXEC)
        if _lock(handle):
            return inside, handle


def _name() -> str:
    return PREFIX + secrets.token_hex(6)


def _lock(handle: int) -> bool:
    """Lock what was just made; False if another process took it for a leftover."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # this file system has no locks: nothing on it is a leftover
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
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # is it there?
        place.replace(target)
