"""Profiles of coding agents: the user's defaults stay, and undoing is always told."""

import json
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import AGENTS
from mlx_gptoss.diagnostics.agents.profiles import PROFILES, profile_of
from mlx_gptoss.diagnostics.agents.setup import prepare, write
from tests.support.agent_setup import files

pytestmark = pytest.mark.usefixtures("home")

STARTS = {
    "codex": "codex --profile mlx-gptoss",
    "opencode": "OPENCODE_CONFIG=~/.config/opencode/mlx-gptoss.json opencode",
    "aider": "aider --config ~/.aider.mlx-gptoss.conf.yml",
    "continue": "cn --config ~/.continue/mlx-gptoss.yaml",
    "cline": "CLINE_DATA_DIR=~/.cline/mlx-gptoss cline",
    "claude-code": "claude --settings ~/.claude/mlx-gptoss.json",
}


def set_up(tool: str, *more: str) -> Result:
    words = ["agents", "setup", tool, "-m", "gpt-oss-20b", *more]
    return CliRunner().invoke(cli, words)


def undo(result: Result) -> None:
    for line in result.stderr.splitlines():
        if "undo: " in line:
            subprocess.run(shlex.split(line.split("undo: ")[1]), check=True)


def content(path: Path) -> dict:
    text = path.read_text()
    if path.suffix == ".toml":
        return tomllib.loads(text)
    return json.loads(text) if path.suffix == ".json" else YAML(typ="safe").load(text)


def test_every_agent_has_a_profile() -> None:
    assert [*PROFILES] == [*AGENTS] == [*STARTS]


@pytest.mark.parametrize("tool", AGENTS)
def test_the_defaults_stay_as_they_are(tool: str, home: Path) -> None:
    write(prepare(tool, Endpoint(model="theirs")))
    before = {path: path.read_text() for path in home.rglob("*") if path.is_file()}
    result = set_up(tool)
    assert (result.exit_code, result.stdout) == (0, "")
    assert {path: path.read_text() for path in before} == before
    own = [one.path for one in profile_of(tool, home).files]
    assert len(files(home)) == len(before) + len(own)
    assert all("gpt-oss-20b" in path.read_text() for path in own)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in own)
    start = STARTS[tool].replace("~", str(home))
    assert result.stderr.endswith(f"then: {start}\n")
    undo(result)
    assert {path for path in home.rglob("*") if path.is_file()} == set(before)


@pytest.mark.parametrize("tool", AGENTS)
def test_undoing_is_told_the_second_time_too(tool: str, home: Path) -> None:
    set_up(tool)
    again = set_up(tool)
    assert "is already set up: nothing to change" in again.stderr
    undo(again)
    assert files(home) == []


def test_a_changed_profile_is_undone_or_removed(home: Path) -> None:
    set_up("codex")
    changed = set_up("codex", "--url", "http://127.0.0.1:9000")
    path = home / ".codex" / "mlx-gptoss.config.toml"
    assert content(path)["model_providers"]["mlx-gptoss"]["base_url"].endswith(
        "9000/v1"
    )
    assert f"Remove the profile: rm -f {path}" in changed.stderr
    undo(changed)
    assert content(path)["model_providers"]["mlx-gptoss"]["base_url"].endswith(
        "8080/v1"
    )


def test_aider_finds_the_context_of_the_model(home: Path) -> None:
    set_up("aider")
    found = content(home / ".aider.mlx-gptoss.conf.yml")
    assert found["model"] == "openai/gpt-oss-20b"
    metadata = content(Path(found["model-metadata-file"]))
    assert metadata["openai/gpt-oss-20b"]["max_input_tokens"] == 131_072


def test_the_defaults_are_changed_on_request_and_can_be_restored(home: Path) -> None:
    config = home / ".codex" / "config.toml"
    config.parent.mkdir()
    config.write_text('model = "theirs"\n')
    set_up("codex", "--default")
    assert content(config)["model"] == "gpt-oss-20b"
    again = set_up("codex", "--default")
    assert "nothing to change" in again.stderr
    undo(again)
    assert config.read_text() == 'model = "theirs"\n'


def test_what_has_no_backup_is_said(home: Path) -> None:
    set_up("codex", "--default")
    again = set_up("codex", "--default")
    assert "undo: remove from" in again.stderr and "has no backup" in again.stderr


def test_a_dry_run_writes_no_profile(home: Path) -> None:
    result = set_up("claude-code", "--dry-run")
    assert result.stdout.startswith("--- /dev/null\n+++ ")
    assert files(home) == []
    assert set_up("codex", "--default", "--file", "x").exit_code == 2
