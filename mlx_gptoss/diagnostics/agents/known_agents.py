"""The supported agents: which settings files they read, and which settings they need.

All were run against a server with these settings (codex 0.171, opencode 1.18, cline
3.0, cn 1.5 for Continue, Claude Code 2.1) except aider, whose keys are from its
documentation. `profiles.py` has files of our own beside them. Knows files and keys;
reads and writes nothing.
"""

from collections.abc import Callable, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import environment_folder

NAME = "mlx-gptoss"
MAX_OUTPUT_TOKENS = 32_768  # of one answer, for agents that require a number

SettingsTable = MutableMapping[str, Any]
Edit = Callable[[SettingsTable, Endpoint], None]


@dataclass(frozen=True)
class SettingsFile:
    """A settings file: its path, its format, and the edit to apply."""

    path: Path
    kind: str
    edit: Edit


@dataclass(frozen=True)
class CodingAgent:
    """A coding agent: its protocol, its command, its files under a home folder."""

    title: str
    protocol: str  # chat | responses | messages
    start: str
    files: Callable[[Path], Sequence[SettingsFile]]
    hidden_by: Callable[[Path], Path | None] = lambda _home: None
    """A file that the agent would ignore once ours exists, or None."""


def _codex(settings: SettingsTable, endpoint: Endpoint) -> None:
    settings["model"] = endpoint.model
    settings["model_provider"] = NAME
    settings["model_context_window"] = endpoint.context
    provider = section(section(settings, "model_providers"), NAME)
    provider["name"] = "mlx_gptoss"
    provider["base_url"] = endpoint.v1
    provider["wire_api"] = "responses"
    put(provider, "experimental_bearer_token", endpoint.key)


def _codex_files(home: Path) -> Sequence[SettingsFile]:
    folder = environment_folder("CODEX_HOME") or home / ".codex"
    return [SettingsFile(folder / "config.toml", "toml", _codex)]


def _opencode(settings: SettingsTable, endpoint: Endpoint) -> None:
    settings.setdefault("$schema", "https://opencode.ai/config.json")
    provider = section(section(settings, "provider"), NAME)
    provider["npm"] = "@ai-sdk/openai-compatible"
    provider["name"] = "mlx_gptoss"
    section(provider, "options")["baseURL"] = endpoint.v1
    section(provider, "options")["apiKey"] = endpoint.key_or_none
    output = min(MAX_OUTPUT_TOKENS, endpoint.context // 2)
    model = section(section(provider, "models"), endpoint.model)
    model.update(name=endpoint.model, reasoning=True, tool_call=True)
    section(model, "limit").update(context=endpoint.context, output=output)
    settings["model"] = f"{NAME}/{endpoint.model}"


def _opencode_files(home: Path) -> Sequence[SettingsFile]:
    configs = environment_folder("XDG_CONFIG_HOME") or home / ".config"
    folder = configs / "opencode"
    commented = (
        folder / "opencode.jsonc"
    )  # read after opencode.json, so it takes precedence
    path = commented if commented.exists() else folder / "opencode.json"
    return [SettingsFile(path, "json", _opencode)]


def _aider(settings: SettingsTable, endpoint: Endpoint) -> None:
    settings["model"] = f"openai/{endpoint.model}"
    settings["openai-api-base"] = endpoint.v1
    settings["openai-api-key"] = endpoint.key_or_none


def _aider_metadata(settings: SettingsTable, endpoint: Endpoint) -> None:
    section(settings, f"openai/{endpoint.model}").update(
        max_tokens=min(MAX_OUTPUT_TOKENS, endpoint.context // 2),
        max_input_tokens=endpoint.context,
        max_output_tokens=min(MAX_OUTPUT_TOKENS, endpoint.context // 2),
        input_cost_per_token=0,
        output_cost_per_token=0,
        litellm_provider="openai",
        mode="chat",
    )


def _aider_files(home: Path) -> Sequence[SettingsFile]:
    return [
        SettingsFile(home / ".aider.conf.yml", "yaml", _aider),
        SettingsFile(home / ".aider.model.metadata.json", "json", _aider_metadata),
    ]


def _continue(settings: SettingsTable, endpoint: Endpoint) -> None:
    settings.setdefault("name", "Local Config")
    settings.setdefault("version", "1.0.0")
    settings.setdefault("schema", "v1")
    if settings.get("models") is None:
        settings["models"] = []
    models = settings["models"]
    if not isinstance(models, MutableSequence):
        raise ConfigError(f"`models` is {models!r} where a list was expected")
    wanted = {
        "name": f"{endpoint.model} (mlx_gptoss)",
        "provider": "openai",
        "model": endpoint.model,
        "apiBase": endpoint.v1,
        "apiKey": endpoint.key_or_none,
        "roles": ["chat", "edit", "apply", "summarize"],
        "capabilities": ["tool_use"],
    }
    ours: SettingsTable = {}
    for number, model in enumerate(models):
        if isinstance(model, MutableMapping) and model.get("name") == wanted["name"]:
            ours = models.pop(number)
            break
    models.insert(0, ours)  # the first is the default
    ours.update(wanted)
    section(ours, "defaultCompletionOptions")["contextLength"] = endpoint.context


def _continue_files(home: Path) -> Sequence[SettingsFile]:
    return [SettingsFile(home / ".continue" / "config.yaml", "yaml", _continue)]


def _continue_hides(home: Path) -> Path | None:
    old, new = home / ".continue" / "config.json", home / ".continue" / "config.yaml"
    return old if old.exists() and not new.exists() else None


def _cline(settings: SettingsTable, endpoint: Endpoint) -> None:
    settings.setdefault("version", 1)
    settings["lastUsedProvider"] = "openai-compatible"
    provider = section(section(settings, "providers"), "openai-compatible")
    wanted = {
        "provider": "openai-compatible",
        "apiKey": endpoint.key_or_none,
        "model": endpoint.model,
        "baseUrl": endpoint.v1,
    }
    kept = section(provider, "settings")
    if any(kept.get(name) != value for name, value in wanted.items()):
        kept.update(wanted)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        provider["updatedAt"] = now.replace("+00:00", "Z")
        provider["tokenSource"] = "manual"


def _cline_files(home: Path) -> Sequence[SettingsFile]:
    path = home / ".cline" / "data" / "settings" / "providers.json"
    return [SettingsFile(path, "json", _cline)]


def _claude_code(settings: SettingsTable, endpoint: Endpoint) -> None:
    environment = section(settings, "env")
    environment["ANTHROPIC_BASE_URL"] = endpoint.url.rstrip("/")
    environment["ANTHROPIC_AUTH_TOKEN"] = endpoint.key_or_none
    for name in (
        "ANTHROPIC_MODEL",
        "ANTHROPIC_DEFAULT_OPUS_MODEL",
        "ANTHROPIC_DEFAULT_SONNET_MODEL",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    ):
        environment[name] = endpoint.model
    # Without this, a line of the system prompt differs in every chat, and no prompt
    # could be taken from the prefix cache.
    environment["CLAUDE_CODE_ATTRIBUTION_HEADER"] = "0"
    environment["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    environment["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] = str(endpoint.context)


def _claude_code_files(home: Path) -> Sequence[SettingsFile]:
    folder = environment_folder("CLAUDE_CONFIG_DIR") or home / ".claude"
    return [SettingsFile(folder / "settings.json", "json", _claude_code)]


AGENTS = {
    "codex": CodingAgent("Codex", "responses", "codex", _codex_files),
    "opencode": CodingAgent("opencode", "chat", "opencode", _opencode_files),
    "aider": CodingAgent("aider", "chat", "aider", _aider_files),
    "continue": CodingAgent("Continue", "chat", "cn", _continue_files, _continue_hides),
    "cline": CodingAgent("Cline", "chat", "cline", _cline_files),
    "claude-code": CodingAgent("Claude Code", "messages", "claude", _claude_code_files),
}


def section(settings: SettingsTable, name: str) -> SettingsTable:
    """Return a table of settings by name, adding it if it is missing."""
    if settings.get(name) is None:
        settings[name] = {}
    found = settings[name]
    if not isinstance(found, MutableMapping):
        raise ConfigError(f"`{name}` is {found!r} where a table was expected")
    return found


def put(settings: SettingsTable, name: str, value: str | None) -> None:
    """Set a value, or remove it for None."""
    if value is None:
        settings.pop(name, None)
    else:
        settings[name] = value
