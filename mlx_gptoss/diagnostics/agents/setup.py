"""Prepare and write the changes of an agent's settings files.

A file that cannot be parsed is never changed. Knows which file gets which settings;
settings/edit.py edits the text and settings/replacement.py writes the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import AGENTS, SettingsFile
from mlx_gptoss.diagnostics.agents.profiles import profile_of
from mlx_gptoss.diagnostics.agents.settings import replacement
from mlx_gptoss.diagnostics.agents.settings.edit import edit_text
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import user_home


@dataclass(frozen=True)
class FileChange:
    """A file with its old and new text; `before` is None for a new file."""

    path: Path
    before: str | None
    after: str

    @property
    def needed(self) -> bool:
        """Whether the file has to be written."""
        return self.before != self.after

    def diff(self) -> str:
        """Return the change as a unified diff."""
        old, new = _lines(self.before or ""), _lines(self.after)
        name = str(self.path)
        origin = name if self.before is not None else "/dev/null"
        lines = (_with_newline(line) for line in unified_diff(old, new, origin, name))
        return "".join(lines)

    def write(self) -> Path | None:
        """Write the file; return the backup of the old one, None for a new file."""
        return write([self])[0]


def write(changes: Sequence[FileChange]) -> list[Path | None]:
    """Write all files or none; return their backups, None for a new file.

    Raises ConfigError, leaving all files unchanged, if one cannot be written.
    """
    return replacement.replace(
        [
            replacement.Replacement(
                change.path,
                None if change.before is None else change.before.encode(),
                change.after.encode(),
            )
            for change in changes
        ]
    )


def prepare(
    tool: str,
    endpoint: Endpoint,
    *,
    home: Path | None = None,
    file: Path | None = None,
    profile: bool = False,
) -> Sequence[FileChange]:
    """Return the changes that point the agent `tool` at `endpoint`; write nothing.

    They change the agent's default settings, or write those of a `profile` of its own.
    `file` replaces the path of the agent's first file. Raises ConfigError for a file
    that cannot be parsed or edited.
    """
    known = AGENTS[tool]
    _check(endpoint)
    home = home or user_home()
    files = list(known.files(home))
    if file is not None:
        files = [SettingsFile(file, files[0].kind, files[0].edit)]
    elif profile:
        files = list(profile_of(tool, home).files)
    elif hidden := known.hidden_by(home):
        raise ConfigError(
            f"{known.title} reads `{hidden}`, but would ignore it beside a new "
            f"`{files[0].path.name}`: convert it first (docs.continue.dev/reference/"
            "yaml-migration), then run this again"
        )
    return [_change(place, endpoint, tool) for place in files]


def _change(place: SettingsFile, endpoint: Endpoint, tool: str) -> FileChange:
    before = _read(place.path)
    try:
        after = edit_text(
            place.kind, before or "", lambda settings: place.edit(settings, endpoint)
        )
    except ConfigError as error:
        raise ConfigError(
            f"`{place.path}`: {error}; nothing was changed: add by hand what "
            f"`mlx-gptoss agents setup {tool} --file NEW --dry-run` prints"
        ) from error
    return FileChange(place.path, before, after)


def _check(endpoint: Endpoint) -> None:
    """Reject values that no file can hold, such as undecodable arguments."""
    for name, value in (("URL", endpoint.url), ("model's id", endpoint.model)):
        if not value.isprintable():
            raise ConfigError(f"the {name} {value!r} has unprintable characters")


def _read(path: Path) -> str | None:
    found = replacement.read(path)
    try:
        return None if found is None else found.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"`{path}` is not UTF-8 (byte {error.start}); nothing was changed"
        ) from error


def _lines(text: str) -> list[str]:
    """Split a text at line feeds only, unlike `splitlines`; keep the line ends."""
    return [line + "\n" for line in text.split("\n")[:-1]] + (
        [last] if (last := text.rsplit("\n", 1)[-1]) else []
    )


def _with_newline(line: str) -> str:
    return line if line.endswith("\n") else line + "\n"
