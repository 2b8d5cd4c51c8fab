"""The command line around the model: help, errors, exit codes, settings, models."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mlx_gptoss import __version__
from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.cli import COMMANDS, cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.cli.settings import settings_file
from mlx_gptoss.errors import GptOssError, HubError
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import hub_server

GOLDEN = Path(__file__).parents[1] / "golden" / "help"
UPDATE = "MLX_GPTOSS_UPDATE_GOLDEN"


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(hub=Hub(cache=tmp_path / "cache"))


def run(*arguments: str, services: Services | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), obj=services)


def all_commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """List the words of every command, those inside groups too."""
    yield path
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("words", list(all_commands()), ids=" ".join)
def test_help_is_the_golden_text(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To accept a change: MLX_GPTOSS_UPDATE_GOLDEN=1 pytest tests/cli/test_cli.py."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(cli, [*words, "--help"], prog_name="mlx-gptoss")
    assert shown.exit_code == 0
    golden = GOLDEN / ("-".join(("mlx-gptoss", *words)) + ".txt")
    if os.environ.get(UPDATE):
        golden.write_text(shown.output)
    assert shown.output == golden.read_text()


def test_every_golden_text_has_a_command() -> None:
    names = {"-".join(("mlx-gptoss", *words)) for words in all_commands()}
    assert {path.stem for path in GOLDEN.glob("*.txt")} == names


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    ctx = click.Context(cli)
    for name, entry in COMMANDS.items():
        command = cli.get_command(ctx, name)
        assert command is not None and entry.summary
        assert command.short_help in (None, entry.summary), name


@pytest.mark.parametrize("words", list(all_commands()), ids=" ".join)
def test_every_option_has_help(words: tuple[str, ...]) -> None:
    ctx = click.Context(cli)
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(ctx, word)
        assert found is not None
        command = found
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["chat", "--help"], ["use"]]
)
def test_help_does_not_start_mlx(arguments: list[str]) -> None:
    program = (
        "import sys; from mlx_gptoss.cli import cli\n"
        "cli(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'mlx.core', 'numpy', 'huggingface_hub', 'rich', 'tokenizers'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    assert python(program, *arguments).stdout.endswith("heavy: []\n")


def test_the_version_is_shown() -> None:
    assert run("--version").output == f"mlx-gptoss, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["generate", "--effort", "enormous", "x"],
        ["generate", "--memory", "plenty", "x"],
        ["generate", "--temperature", "-1", "x"],
        ["pull"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "gpt-oss-20b"], "is neither `demo` nor a Hub id"),
        (["inspect", "./nowhere"], "`./nowhere` does not exist"),
        (["inspect", "a/b", "--offline"], "`a/b` is not on this machine"),
        (["generate", "hi", "-m", "./nowhere"], "`./nowhere` does not exist"),
        (["chat", "-m", "a/b", "--offline"], "downloads are off"),
        (["use", "a/b/c"], "`a/b/c` is a part of a repository"),
        (
            ["generate", "hi", "-m", "demo", "--dtype", "int8"],
            "use bfloat16, float16 or float32",
        ),
        (
            ["generate", "hi", "-m", "demo", "--wired", "much"],
            "wired `much` is not known",
        ),
        (["models", "--delete", "demo", "--yes"], "only Hub ids can be deleted"),
        (["pull", "demo"], "only Hub ids can be pulled"),
    ],
)
def test_a_named_error_is_one_line_and_exit_code_1(
    services: Services, arguments: list[str], message: str
) -> None:
    result = run(*arguments, services=services)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


class BrokenHub(Hub):
    """A Hub whose list of models raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        object.__setattr__(self, "error", error)

    def list_models(self) -> list:
        raise self.error  # type: ignore[attr-defined]


def test_an_interrupt_is_exit_code_130() -> None:
    result = run("models", services=Services(hub=BrokenHub(KeyboardInterrupt())))
    assert (result.exit_code, result.stdout) == (130, "")


def test_every_named_error_is_caught_at_the_edge() -> None:
    for kind in (GptOssError, HubError):
        result = run("models", services=Services(hub=BrokenHub(kind("what happened"))))
        assert (result.exit_code, result.stderr) == (1, "Error: what happened\n")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = (
        "import os, sys; from mlx_gptoss.cli import cli\n"
        "os.close(1); reader, writer = os.pipe(); os.close(reader)\n"
        "os.dup2(writer, 1); cli(['--help'])"
    )
    result = python(program)
    assert result.stderr == ""


# use, and which model is meant


def test_use_stores_the_default_model_and_prints_it() -> None:
    assert run("use", "openai/gpt-oss-20b").exit_code == 0
    assert run("use").stdout == "openai/gpt-oss-20b\n"


def test_use_stores_paths_as_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    run("use", "./here")
    monkeypatch.chdir("/")
    assert run("use").stdout == f"{tmp_path / 'here'}\n"


def test_the_variable_goes_before_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_GPTOSS_MODEL", "owner/other")
    assert "overrides it: owner/other" in run("use", "demo").stderr
    assert run("use").stdout == "owner/other\n"


def test_without_a_choice_it_is_the_demo_and_the_hint_names_the_20b() -> None:
    assert run("use").stdout == "demo\n"
    hint = run("inspect", "--offline", "--strict").stderr.splitlines()[0]
    assert hint.endswith("for the real one: `mlx-gptoss use openai/gpt-oss-20b`")


def test_damaged_settings_are_an_error_that_says_where() -> None:
    settings_file().parent.mkdir(parents=True)
    settings_file().write_text("{")
    result = run("use")
    assert result.exit_code == 1
    assert f"Error: `{settings_file()}` cannot be read" in result.stderr


@pytest.mark.parametrize("text", ["\0\0", "[1]", '{"model": 3}', "[" * 9999, "\xff"])
def test_settings_of_no_use_are_an_error(text: str) -> None:
    settings_file().parent.mkdir(parents=True)
    settings_file().write_bytes(text.encode("latin-1"))
    result = run("use")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: `{settings_file()}` cannot be read")
    assert result.stderr.count("\n") == 1


def test_doctor_tells_of_damaged_settings_and_goes_on(services: Services) -> None:
    settings_file().parent.mkdir(parents=True)
    settings_file().symlink_to(settings_file())
    result = run("doctor", "--json", services=services)
    facts = json.loads(result.stdout)
    levels = {one["what"]: one["level"] for one in facts["findings"]}
    what = f"`{settings_file()}` cannot be read (Too many levels of symbolic links)"
    assert (result.exit_code, levels[what], facts["healthy"]) == (1, "error", False)
    assert facts["default_model"] is None
    text = run("doctor", services=services).stdout
    assert f"ERROR: {what}; delete it, then run `mlx-gptoss use MODEL`" in text


def test_on_a_mac_settings_lie_in_application_support(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    library = tmp_path / "home/Library/Application Support"
    assert settings_file() == library / "mlx-gptoss/settings.json"


# pull and models

CONFIG = (
    b'{"model_type": "gpt_oss", "num_local_experts": 128, "quantization_config": 1}'
)
REPOS = {"owner/small": {"config.json": CONFIG, "model.safetensors": b"w" * 5000}}


def test_pull_list_and_delete(tmp_path: Path) -> None:
    with hub_server(REPOS) as server:
        services = Services(hub=Hub(server.url, tmp_path / "cache"))
        pulled = run("pull", "owner/small", services=services).stdout.strip()
        size = Path(pulled, "model.safetensors").stat().st_size
        listed = run("models", "--json", services=services)
        table = run("models", services=services).stdout
        refused = run("models", "--delete", "owner/small", services=services)
        deleted = run("models", "--delete", "owner/small", "--yes", services=services)
        after = run("models", services=services).stdout
    assert size == 5000
    models = {model["name"]: model for model in json.loads(listed.stdout)}
    assert models["owner/small"]["bytes"] == 5000 + len(CONFIG)
    assert "owner/small  5 kB" in table and "gpt-oss-120b, MXFP4" in table
    assert refused.exit_code == 1  # nobody said yes
    assert deleted.stderr == "Deleted owner/small: 5 kB freed\n"
    assert "owner/small" not in after


# inspect


def test_inspect_describes_a_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", seed=0)
    text = run("inspect", str(folder)).stdout
    assert "3 layers (2 sliding, 1 full), 5 experts, 3 a token" in text
    assert "all good" in text
    facts = json.loads(run("inspect", str(folder), "--deep", "--json").stdout)
    assert facts["checked"] == "headers and values"
    assert facts["bytes"] == sum(facts["bytes_by_part"].values())


def test_inspect_of_a_truncated_file_is_exit_code_1(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", seed=0)
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    result = run("inspect", str(folder))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")


# doctor


def test_doctor_tells_device_memory_and_default(services: Services) -> None:
    result = run("doctor", "--json", services=services)
    facts = json.loads(result.stdout)
    assert result.exit_code == (0 if facts["healthy"] else 1)
    assert facts["default_model"] == "demo"
    text = run("doctor", services=services).stdout
    assert f"mlx-gptoss {facts['facts']['packages']['mlx-gptoss']}" in text


# every command that loads a model


@pytest.mark.parametrize("words", [("generate",), ("chat",), ("bench", "decode")])
def test_every_command_that_loads_a_model_takes_the_same_options(
    words: tuple[str, ...],
) -> None:
    command: click.Command | None = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    names = {name for option in command.params for name in option.opts}
    assert names >= {"--model", "--memory", "--experts", "--context"}
    assert names >= {"--dtype", "--offline", "--strict"}
