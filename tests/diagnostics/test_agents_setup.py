"""Settings of agents: what is written, and that nothing else is touched."""

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import AGENTS
from mlx_gptoss.diagnostics.agents.setup import prepare
from mlx_gptoss.errors import ConfigError, GptOssError

pytestmark = pytest.mark.usefixtures("home")

OURS = Endpoint(model="gpt-oss-20b")
FILES = {
    "codex": ".codex/config.toml",
    "opencode": ".config/opencode/opencode.json",
    "aider": ".aider.conf.yml",
    "continue": ".continue/config.yaml",
    "cline": ".cline/data/settings/providers.json",
    "claude-code": ".claude/settings.json",
}
CODEX = """\
# mine
approval_policy = "on-request" # ask

[mcp_servers.files]
command = 'npx'   # keep
"""
CONTINUE = """\
name: Mine
version: 2.0.0
schema: v1
# the models I like
models:
  - name: other
    provider: "ollama"   # local
    model: b
rules:
  - Be brief.
"""


def put(home: Path, name: str, text: str) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def read(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".toml":
        return tomllib.loads(text)
    return YAML(typ="safe").load(text) if path.suffix != ".json" else json.loads(text)


def write(tool: str, endpoint: Endpoint = OURS) -> None:
    for change in prepare(tool, endpoint):
        change.write()


@pytest.mark.parametrize("tool", AGENTS)
def test_settings_are_written_where_the_tool_reads_them(home: Path, tool: str) -> None:
    write(tool, Endpoint("http://127.0.0.1:9000/", "gpt-oss-120b", "secret"))
    path = home / FILES[tool]
    text = path.read_text()
    assert "gpt-oss-120b" in text and "secret" in text
    assert "http://127.0.0.1:9000" in text and "9000//" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # it holds a key


@pytest.mark.parametrize("tool", AGENTS)
def test_a_second_time_nothing_is_left_to_change(tool: str) -> None:
    write(tool)
    assert [change.needed for change in prepare(tool, OURS)].count(True) == 0


def test_codex_gets_a_provider_and_keeps_the_rest(home: Path) -> None:
    path = put(home, FILES["codex"], CODEX)
    write("codex")
    assert path.read_text() == (
        '# mine\napproval_policy = "on-request" # ask\nmodel = "gpt-oss-20b"\n'
        'model_provider = "mlx-gptoss"\nmodel_context_window = 131072\n\n'
        "[mcp_servers.files]\ncommand = 'npx'   # keep\n\n"
        '[model_providers.mlx-gptoss]\nname = "mlx_gptoss"\n'
        'base_url = "http://127.0.0.1:8080/v1"\nwire_api = "responses"\n'
    )


def test_a_key_that_is_not_wanted_any_more_goes(home: Path) -> None:
    write("codex", Endpoint(key="old"))
    write("codex", Endpoint())
    assert "old" not in (home / FILES["codex"]).read_text()


def test_continue_gets_the_first_model_of_its_list(home: Path) -> None:
    path = put(home, FILES["continue"], CONTINUE)
    write("continue")
    found = read(path)
    assert [model["name"] for model in found["models"]] == [
        "gpt-oss-20b (mlx_gptoss)",
        "other",
    ]
    kept = "# the models I like\nmodels:\n  - name: gpt-oss-20b (mlx_gptoss)\n"
    assert kept in path.read_text()
    assert 'provider: "ollama"   # local\n' in path.read_text()


def test_continue_is_not_given_a_file_that_hides_its_old_one(home: Path) -> None:
    put(home, ".continue/config.json", "{}")
    with pytest.raises(ConfigError, match="convert it first"):
        prepare("continue", OURS)


def test_opencode_is_changed_in_the_file_that_wins(home: Path) -> None:
    put(home, ".config/opencode/opencode.json", '{"theme": "a"}')
    later = put(home, ".config/opencode/opencode.jsonc", '{\n\t"theme": "b"\n}')
    write("opencode")
    assert read(later)["model"] == "mlx-gptoss/gpt-oss-20b"
    assert '\n\t"theme": "b",\n' in later.read_text()  # indented as it came


def test_claude_code_reads_no_changing_line_before_the_prompt(home: Path) -> None:
    put(home, FILES["claude-code"], '{"env": {"A": "b"}, "model": "opus"}')
    write("claude-code")
    found = read(home / FILES["claude-code"])
    assert found["env"]["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert (found["env"]["A"], found["model"]) == ("b", "opus")


def test_aider_knows_the_context_and_keeps_its_comments(home: Path) -> None:
    sample = "## a sample\n#model: x\n"
    path = put(home, FILES["aider"], sample)
    write("aider")
    assert path.read_text().startswith(sample)
    assert read(path)["model"] == "openai/gpt-oss-20b"
    metadata = read(home / ".aider.model.metadata.json")
    assert metadata["openai/gpt-oss-20b"]["max_input_tokens"] == 131_072


@pytest.mark.parametrize(
    ("tool", "text", "fault"),
    [
        ("codex", "model = ", "it is not TOML"),
        ("codex", "model_providers = 3\n", "`model_providers` is 3"),
        ("aider", "a: b: c\n", "it is not YAML"),
        ("aider", "a: 1\n---\nb: 2\n", "it is not YAML"),
        ("aider", "- a\n", "its top level is not a table of settings"),
        ("continue", "models: none\n", "`models` is 'none'"),
        ("opencode", '{"a": 1, /* mine }', "it is not plain JSON"),
        ("opencode", "{'a': 1}", "it is not plain JSON"),
        (
            "opencode",
            '{"a": 1, "a": 2}',
            "it is not plain JSON (`a` occurs twice",
        ),
        ("cline", '{"a": NaN}', "it is not plain JSON (NaN is not a JSON number"),
        ("cline", "[" * 100_000, "it is not plain JSON"),
        ("claude-code", '{"env": []}', "`env` is []"),
    ],
)
def test_what_cannot_be_read_is_refused_and_left_alone(
    home: Path, tool: str, text: str, fault: str
) -> None:
    path = put(home, FILES[tool], text)
    result = CliRunner().invoke(cli, ["agents", "setup", tool, "-m", "x", "--default"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Error: `{path}`: {fault}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert path.read_text() == text
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_is_no_text_is_refused(home: Path) -> None:
    path = home / FILES["codex"]
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        prepare("codex", OURS)


@pytest.mark.parametrize("tool", AGENTS)
@pytest.mark.parametrize("model", ["a\udc80", "a\nb"])
def test_an_id_that_is_no_text_is_refused(home: Path, tool: str, model: str) -> None:
    result = CliRunner().invoke(
        cli, ["agents", "setup", tool, "-m", model, "--default"]
    )
    assert result.stderr.startswith("Error: the model's id 'a")
    assert (result.stderr.count("\n"), list(home.iterdir())) == (1, [])


@pytest.mark.parametrize(
    ("tool", "text", "fault"),
    [
        ("aider", "a: &a [*a]\n", "maximum recursion depth exceeded"),
        (
            "continue",
            "models: &m\n- model: a\nb: *m\n",
            "`*m` is an alias, defined elsewhere",
        ),
        ("cline", '{"a": ' + "[" * 2000 + "]" * 2000 + "}", "it is not plain JSON"),
    ],
)
def test_what_cannot_be_changed_in_place_is_left_alone(
    home: Path, tool: str, text: str, fault: str
) -> None:
    path = put(home, FILES[tool], text)
    result = CliRunner().invoke(
        cli, ["agents", "setup", tool, "-m", "demo", "--default"]
    )
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert fault in result.stderr and path.read_text() == text


# how it is written


def test_the_old_file_is_kept_and_its_permissions_too(home: Path) -> None:
    path = put(home, FILES["codex"], CODEX)
    path.chmod(0o640)
    (one,) = prepare("codex", OURS)
    first = one.write()
    (other,) = prepare("codex", Endpoint(model="other"))
    second = other.write()
    assert first is not None and first.read_text() == CODEX
    assert second is not None and second != first
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_to_a_file_stays_a_link(home: Path) -> None:
    real = put(home, "dotfiles/codex.toml", CODEX)
    (home / ".codex").mkdir()
    link = home / FILES["codex"]
    link.symlink_to(real)
    write("codex")
    assert link.is_symlink() and "mlx-gptoss" in real.read_text()


def test_line_ends_of_windows_stay(home: Path) -> None:
    path = put(home, FILES["codex"], CODEX.replace("\n", "\r\n"))
    write("codex")
    text = path.read_bytes().decode()
    assert text.count("\r\n") == text.count("\n") > 10


def test_a_failed_write_leaves_the_old_file(home: Path) -> None:
    path = put(home, FILES["codex"], CODEX)
    (change,) = prepare("codex", OURS)
    broken = type(change)(path, change.before, "\ud800")  # no UTF-8 can be made of it
    with pytest.raises(UnicodeEncodeError):
        broken.write()
    assert path.read_text() == CODEX
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


# the command


def test_a_dry_run_prints_the_change_and_writes_nothing(home: Path) -> None:
    path = put(home, FILES["codex"], CODEX)
    result = CliRunner().invoke(
        cli,
        ["agents", "setup", "codex", "-m", "gpt-oss-20b", "--default", "--dry-run"],
    )
    assert result.exit_code == 0
    assert result.stdout.startswith(f"--- {path}\n+++ {path}\n@@ ")
    assert '+model = "gpt-oss-20b"\n' in result.stdout
    assert path.read_text() == CODEX


def test_setup_shows_the_change_and_how_to_undo_it(home: Path) -> None:
    path = put(home, FILES["codex"], CODEX)
    result = CliRunner().invoke(
        cli, ["agents", "setup", "codex", "-m", "demo", "--default"]
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert '+model = "demo"\n' in result.stderr
    undo = next(line for line in result.stderr.splitlines() if "undo: " in line)
    assert os.system(undo.split("undo: ")[1]) == 0
    assert path.read_text() == CODEX


def test_without_a_server_the_default_model_is_taken(home: Path) -> None:
    arguments = ["agents", "setup", "cline", "--url", "http://127.0.0.1:1", "--default"]
    result = CliRunner().invoke(cli, arguments)
    assert "No server is running at http://127.0.0.1:1" in result.stderr
    found = read(home / FILES["cline"])["providers"]["openai-compatible"]
    assert found["settings"]["model"] == "demo"


def test_another_file_may_be_named(home: Path) -> None:
    other = home / "project.json"
    arguments = ["agents", "setup", "claude-code", "-m", "demo", "--file", str(other)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert read(other)["env"]["ANTHROPIC_MODEL"] == "demo"
    assert not (home / ".claude").exists()


@pytest.mark.parametrize(
    ("tool", "name"), [("codex", "CODEX_HOME"), ("claude-code", "CLAUDE_CONFIG_DIR")]
)
def test_folders_of_tools_are_whole_paths(
    home: Path, monkeypatch: pytest.MonkeyPatch, tool: str, name: str
) -> None:
    for value in ("relative", "~/x"):
        monkeypatch.setenv(name, value)
        with pytest.raises(GptOssError, match=f"`{name}` is `{value}`, which is no"):
            prepare(tool, OURS)
    monkeypatch.setenv(name, "")  # as if it were not set
    assert prepare(tool, OURS)[0].path.is_relative_to(home)
