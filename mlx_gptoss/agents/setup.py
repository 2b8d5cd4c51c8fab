"""From a tool's name to the change of its files: shown first, then written.

A file is written beside its place and renamed over it, keeps its permissions, and
its old text stays in a backup. A file that cannot be read as what it should be is
never touched.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import unified_diff
from pathlib import Path

from mlx_gptoss.agents.documents import parse
from mlx_gptoss.agents.endpoint import Endpoint
from mlx_gptoss.agents.tools import TOOLS, SettingsFile
from mlx_gptoss.errors import ConfigError

PRIVATE = 0o600  # of new files: they may hold a key


@dataclass(frozen=True)
class FileChange:
    """A file and its texts; `before` is None for one that is not there yet."""

    path: Path
    before: str | None
    after: str

    @property
    def needed(self) -> bool:
        """Whether the file says something else than it should."""
        return self.before != self.after

    def diff(self) -> str:
        """Return what changes, as `diff -u` would print it."""
        old = (self.before or "").splitlines(keepends=True)
        new = self.after.splitlines(keepends=True)
        name = str(self.path)
        origin = name if self.before is not None else "/dev/null"
        lines = (_ended(line) for line in unified_diff(old, new, origin, name))
        return "".join(lines)

    def write(self) -> Path | None:
        """Write the file; return the backup of the old one, or None for a new one."""
        path = self.path.resolve()  # a link stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = None
        if self.before is not None:
            backup = _free_name(path)
            shutil.copy2(path, backup)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(self.after)
                file.flush()
                os.fsync(file.fileno())
            if backup is not None:
                shutil.copymode(path, draft)
            else:
                os.chmod(draft, PRIVATE)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
        return backup


def prepare(
    tool: str, endpoint: Endpoint, *, home: Path | None = None, file: Path | None = None
) -> Sequence[FileChange]:
    """Return the changes that point `tool` at `endpoint`; write nothing.

    `file` is another place for the tool's first file. Raises ConfigError for a file
    that cannot be read, with what to do.
    """
    known = TOOLS[tool]
    home = home or Path.home()
    files = list(known.files(home))
    if file is not None:
        files = [SettingsFile(file, files[0].kind, files[0].edit)]
    elif hidden := known.hidden_by(home):
        raise ConfigError(
            f"{known.title} reads `{hidden}` and would not any more beside a new "
            f"`{files[0].path.name}`: convert it first (docs.continue.dev/reference/"
            "yaml-migration), then run this again"
        )
    return [_change(place, endpoint, tool) for place in files]


def _change(place: SettingsFile, endpoint: Endpoint, tool: str) -> FileChange:
    before = _read(place.path)
    try:
        after = _edited(before or "", place, endpoint)
    except ConfigError as error:
        raise ConfigError(
            f"`{place.path}`: {error}; nothing was changed: add by hand what "
            f"`mlx-gptoss agents setup {tool} --file NEW --dry-run` prints"
        ) from error
    return FileChange(place.path, before, after)


def _edited(before: str, place: SettingsFile, endpoint: Endpoint) -> str:
    """Return the new text; the old one where it says the same already."""
    windows = "\r\n" in before
    text = before.replace("\r\n", "\n") if windows else before
    document = parse(place.kind, text)
    place.edit(document.data, endpoint)
    if before and parse(place.kind, text).data == document.data:
        return before
    after = document.text()
    if parse(place.kind, after).data != document.data:
        raise ConfigError("it would not read the same when written back")
    return after.replace("\n", "\r\n") if windows else after


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"`{path}` is not UTF-8 (byte {error.start}); nothing was changed"
        ) from error


def _free_name(path: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    backup = path.with_name(f"{path.name}.backup-{stamp}")
    number = 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.backup-{stamp}-{number}")
    return backup


def _ended(line: str) -> str:
    return line if line.endswith("\n") else line + "\n"
