"""What shells complete: commands, options, models, conversations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.cli import COMMANDS, cli
from mlx_gptoss.cli.completion import VARIABLE
from tests.support.checkpoints import write_checkpoint
from tests.support.saved_chats import saved
from tests.support.scripted_chat import scripted_runtime


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(*words: str) -> list[str]:
    """Return what completes the last word."""
    shell = ShellComplete(cli, {}, "mlx-gptoss", VARIABLE)
    found = shell.get_completions([*words[:-1]], words[-1])
    return [one.value for one in found]


def test_commands_are_completed_with_their_summaries() -> None:
    assert completed("") == [*COMMANDS]
    assert completed("mo") == ["models"]
    shell = ShellComplete(cli, {}, "mlx-gptoss", VARIABLE)
    [ps] = shell.get_completions([], "ps")
    assert ps.help == "List running servers"
    assert "--memory" in completed("chat", "--m")


@pytest.mark.parametrize(
    "words",
    [
        ("chat", "-m"),
        ("run",),
        ("use",),
        ("inspect",),
        ("plan",),
        ("convert",),
        ("serve", "-m"),
        ("models", "rm"),
        ("bench", "decode", "-m"),
    ],
)
def test_models_are_completed(words: tuple[str, ...], home: Path) -> None:
    write_checkpoint(home / "mine")
    assert completed(*words, "de") == ["demo"]
    assert completed(*words, "") == ["demo", "./mine"]


@pytest.mark.parametrize(
    "words",
    [
        ("sessions", "show"),
        ("sessions", "rm"),
        ("sessions", "export"),
        ("chat", "--session"),
        ("run", "--session"),
    ],
)
def test_conversations_are_completed(words: tuple[str, ...]) -> None:
    saved(Sessions.open(), scripted_runtime("x"), "Ferries to Oslo")
    [kept] = Sessions.open().list()
    assert completed(*words, kept.short_id[:2]) == [kept.short_id]
    assert completed(*words, "zz") == []


@pytest.mark.parametrize("shell", ["zsh", "bash", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in done.stdout
    assert ("compinit" in done.stdout) == (shell == "zsh")


def test_bash_completes_as_a_person_would_see_it(home: Path) -> None:
    """The function of the script is called as bash does for `mlx-gptoss chat -m de`."""
    program = home / "mlx-gptoss"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mlx_gptoss "$@"\n')
    program.chmod(0o755)
    line = (
        "source <(mlx-gptoss completion bash); COMP_WORDS=(mlx-gptoss chat -m de); "
        "COMP_CWORD=3; _mlx_gptoss_completion mlx-gptoss; echo ${COMPREPLY[@]}"
    )
    path = f"{home}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("demo\n", "")
