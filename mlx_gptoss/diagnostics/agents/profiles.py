"""Profiles for coding agents: files beside the user's, and how to start with them.

Each follows the program's own way to read other settings for one start:

Codex        `--profile NAME` adds `NAME.config.toml` to its settings (from 0.134 on)
opencode     `OPENCODE_CONFIG` names a file that is added to its settings
aider        `--config` names a file that is read instead of its settings
Continue     `cn --config` does the same
Cline        `CLINE_DATA_DIR` is its whole folder of data, conversations included
Claude Code  `--settings` names a file that is added to its settings

Knows files and options; reads and writes nothing.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import (
    AGENTS,
    NAME,
    SettingsFile,
    SettingsTable,
)


@dataclass(frozen=True)
class AgentProfile:
    """Files that only we write, and what makes an agent read them."""

    files: Sequence[SettingsFile]
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, program: str) -> str:
        """Return the shell command that starts the agent with this profile."""
        variables = (f"{k}={shlex.quote(v)}" for k, v in self.environment.items())
        return " ".join([*variables, shlex.join([program, *self.arguments])])

    @property
    def removal(self) -> str:
        """The shell command that removes the profile."""
        return shlex.join(["rm", "-f", *(str(one.path) for one in self.files)])


def profile_of(tool: str, home: Path) -> AgentProfile:
    """Return the profile of an agent for a user's home folder."""
    return PROFILES[tool](AGENTS[tool].files(home))


def _codex(files: Sequence[SettingsFile]) -> AgentProfile:
    [own] = _beside(files, f"{NAME}.config.toml")
    return AgentProfile([own], ["--profile", NAME])


def _opencode(files: Sequence[SettingsFile]) -> AgentProfile:
    [own] = _beside(files, f"{NAME}.json")
    return AgentProfile([own], environment={"OPENCODE_CONFIG": str(own.path)})


def _aider(files: Sequence[SettingsFile]) -> AgentProfile:
    own, metadata = _beside(
        files, f".aider.{NAME}.conf.yml", f".aider.{NAME}.metadata.json"
    )

    def edit(settings: SettingsTable, endpoint: Endpoint) -> None:
        own.edit(settings, endpoint)
        settings["model-metadata-file"] = str(metadata.path)

    main = replace(own, edit=edit)
    return AgentProfile([main, metadata], ["--config", str(own.path)])


def _continue(files: Sequence[SettingsFile]) -> AgentProfile:
    [own] = _beside(files, f"{NAME}.yaml")
    return AgentProfile([own], ["--config", str(own.path)])


def _cline(files: Sequence[SettingsFile]) -> AgentProfile:
    [default] = files
    data = default.path.parents[2] / NAME  # beside `data/settings/providers.json`
    own = replace(default, path=data / "settings" / default.path.name)
    return AgentProfile([own], environment={"CLINE_DATA_DIR": str(data)})


def _claude_code(files: Sequence[SettingsFile]) -> AgentProfile:
    [own] = _beside(files, f"{NAME}.json")
    return AgentProfile([own], ["--settings", str(own.path)])


def _beside(files: Sequence[SettingsFile], *names: str) -> list[SettingsFile]:
    """Return the same settings in files of other names."""
    return [
        replace(one, path=one.path.with_name(name))
        for one, name in zip(files, names, strict=True)
    ]


PROFILES: dict[str, Callable[[Sequence[SettingsFile]], AgentProfile]] = {
    "codex": _codex,
    "opencode": _opencode,
    "aider": _aider,
    "continue": _continue,
    "cline": _cline,
    "claude-code": _claude_code,
}
