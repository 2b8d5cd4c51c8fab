"""A folder here that holds a model is meant before a Hub id, on every command."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint.hub import DEMO, Hub, local_folder
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.serve_setup import sources_of
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.load_options import LoadOptions

NAMES = ("q8", "owner/q8")
CONVERSATION = '[{"role": "user", "content": "hi"}]'
COMMANDS = (
    "inspect {}",
    "plan {}",
    "render -m {} -",
    "parse -m {} -",
    "generate -m {} --max-tokens 1 hi",
    "chat -m {} --max-tokens 1 hi",
    "trace record -m {} trace.json",
    "convert {} made --dry-run",
    "use {}",
)


@pytest.fixture(autouse=True)
def beside_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be in a folder that has the demo as `q8` and as `owner/q8`, without a network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    demo = local_folder(DEMO)
    assert demo is not None
    for name in NAMES:
        (tmp_path / name).mkdir(parents=True)
        for file in demo.iterdir():
            (tmp_path / name / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, cache: Path) -> Result:
    services = Services(hub=Hub(cache=cache))
    return CliRunner().invoke(cli, line.split(), input=CONVERSATION, obj=services)


@pytest.mark.parametrize(
    ("command", "name"),
    [*((command, NAMES[1]) for command in COMMANDS), (COMMANDS[0], NAMES[0])],
)
def test_the_folder_is_meant_and_one_note_says_so(
    command: str, name: str, beside_folders: Path
) -> None:
    result = run(command.format(name), beside_folders / "cache")

    notes = [x for x in result.stderr.splitlines() if f"`{name}` is a folder here" in x]
    assert (result.exit_code, len(notes)) == (0, 1), result.stderr


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_of_a_model_here_is_no_hub_id(file: str, beside_folders: Path) -> None:
    result = run(f"inspect --offline q8/{file}", beside_folders / "cache")

    assert f"`./q8/{file}` is a file: give its folder" in result.stderr


def test_serve_names_it_by_its_folder() -> None:
    sources = sources_of(["q8", "fast=owner/q8"], LoadOptions(), Services())

    assert [source.name for source in sources] == ["q8", "fast"]
    assert all(source.plan is not None and source.plan().fits for source in sources)


def test_the_default_model_may_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_GPTOSS_MODEL", "owner/q8")

    result = CliRunner().invoke(cli, ["inspect"])

    assert result.stdout.startswith("./owner/q8: ")


def test_use_keeps_the_whole_path(beside_folders: Path) -> None:
    run("use owner/q8", beside_folders / "cache")

    stored = Path(run("use", beside_folders / "cache").stdout.strip())

    assert stored == (beside_folders / "owner/q8").resolve()


def test_a_folder_named_demo_does_not_stand_for_the_demo_silently(
    beside_folders: Path,
) -> None:
    (beside_folders / "demo").symlink_to(beside_folders / "q8")

    result = run("inspect demo", beside_folders / "cache")

    assert result.stdout.startswith("demo: ")
    assert result.stderr == (
        "`demo` is the built-in model: for the folder here write `./demo`\n"
    )


def test_an_empty_folder_is_mentioned_where_the_hub_is_asked(
    beside_folders: Path,
) -> None:
    (beside_folders / "owner/empty").mkdir()

    result = run("inspect owner/empty --offline", beside_folders / "cache")

    assert result.exit_code == 1
    assert result.stderr.startswith("the folder `owner/empty` here holds no weights: ")
