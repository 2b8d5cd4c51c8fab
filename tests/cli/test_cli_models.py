"""`models list|rm` and `sessions list|rm`: alike; the default and converted folders."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.model_folders import list_folders, remember_folder, spelled
from mlx_gptoss.cli.services import Services
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import hub_server

CONFIG = b'{"model_type": "gpt_oss", "num_local_experts": 32, "quantization": {}}'
REPOS = {
    f"owner/{name}": {"config.json": CONFIG, "model.safetensors": b"w" * 5000}
    for name in ("one", "two")
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and a folder in it to stand in."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (home / "here").mkdir(parents=True)
    monkeypatch.chdir(home / "here")
    return home / "here"


def run(*words: str, services: Services | None = None) -> Result:
    hub = Hub(cache=Path.home() / "cache")
    return CliRunner().invoke(cli, list(words), obj=services or Services(hub=hub))


def listed(*words: str) -> dict[str, dict]:
    facts = json.loads(run("models", *words, "--json").stdout)
    return {model["name"]: model for model in facts}


def test_the_bare_command_lists() -> None:
    assert run("models").stdout == run("models", "list").stdout
    assert listed() == listed("list")
    assert run("sessions").stdout == run("sessions", "list").stdout


def test_folders_here_and_converted_ones_are_listed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(here / "mine")
    write_checkpoint(here.parent / "far" / "converted")
    (here / "notes").mkdir()
    remember_folder(here.parent / "far" / "converted")
    assert [*listed()] == ["demo", "./mine", "~/far/converted"]
    monkeypatch.chdir("/")
    assert [*listed()] == ["demo", "~/far/converted"]
    for file in (here.parent / "far" / "converted").iterdir():
        file.unlink()
    assert [*listed()] == ["demo"]


def test_a_folder_is_named_as_options_take_it(here: Path) -> None:
    names = [spelled(one) for one in (here / "a", here / "a" / "b", Path("/x/y"))]
    assert names == ["./a", "~/here/a/b", "/x/y"]


def test_the_default_is_marked(here: Path) -> None:
    assert run("models").stdout.endswith("  -          default\n")
    write_checkpoint(here / "mine")
    assert run("use", "./mine").exit_code == 0
    assert run("models").stdout.endswith("  default\n")
    assert [name for name, one in listed().items() if one["default"]] == ["./mine"]


def test_a_damaged_record_lists_nothing_more(here: Path) -> None:
    remember_folder(here)
    [record] = here.parent.rglob("folders.json")
    assert record.stat().st_mode & 0o777 == 0o600
    record.write_text("[1")
    assert list_folders() == []


def test_models_are_deleted_by_their_names() -> None:
    with hub_server(REPOS) as server:
        services = Services(hub=Hub(server.url, Path.home() / "cache"))
        for name in REPOS:
            run("pull", name, services=services)
        done = run("models", "rm", *REPOS, "--yes", services=services)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "".join(f"Deleted {name}: 5 kB freed\n" for name in REPOS)
    assert [*listed()] == ["demo"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["rm"], 2, "Missing argument"),
        (["rm", "a/b", "--yes"], 1, "`a/b` is not on this machine"),
        (["rm", "demo", "--yes"], 1, "only Hub ids can be deleted"),
        (["--delete", "a/b", "list"], 2, "--delete stands alone"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_a_mistake_has_its_exit_code(words: list[str], code: int, said: str) -> None:
    result = run("models", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


@pytest.mark.parametrize(("group", "missing"), [("models", "a/b"), ("sessions", "abc")])
def test_both_groups_end_alike(group: str, missing: str) -> None:
    for words in (["list"], ["list", "--json"], []):
        assert run(group, *words).exit_code == 0
    assert run(group, "rm").exit_code == 2
    gone = run(group, "rm", missing, "--yes")
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert gone.stderr.startswith("Error: ") and gone.stderr.count("\n") == 1
    assert isinstance(json.loads(run(group, "list", "--json").stdout), list)
    assert run(group, "list").stdout.split("\n")[0].isupper()
    help_text = run(group, "list", "--help").output
    assert "Print one JSON array" in help_text
