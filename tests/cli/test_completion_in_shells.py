"""The completions of zsh, bash and fish, asked for as a person would: with Tab."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlx_gptoss.chat.sessions import Sessions
from tests.support.checkpoints import write_checkpoint
from tests.support.saved_chats import saved
from tests.support.scripted_chat import scripted_runtime
from tests.support.terminals import ROOT, Terminal

READY = "ready$"  # the prompt of a shell
# Without the settings of whoever runs the tests.
SHELLS = {
    "zsh": (["zsh", "-f", "-i"], f"PROMPT='{READY} '"),
    "bash": (["bash", "--norc", "--noprofile", "-i"], f"PS1='{READY} '"),
}
TYPED = [  # what is typed, and what Tab makes of it
    ("mod", "models"),
    ("chat -m de", "chat -m demo"),
    ("chat --hide-r", "chat --hide-reasoning"),
    ("serve --experts str", "serve --experts streamed"),
    ("merge ./mi", "merge ./mine"),
    ("chat -a ca", "chat -a calls"),
    ("sessions export 1 tr", "sessions export 1 train.jsonl"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "bin" / "mlx-gptoss"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mlx_gptoss "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    here = tmp_path / "here"
    write_checkpoint(here / "mine")
    (here / "calls").mkdir()
    (here / "calls" / "adapter_config.json").write_text("{}")
    (here / "train.jsonl").write_text("{}\n")
    monkeypatch.chdir(here)
    return tmp_path


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@contextmanager
def shell_with_completion(shell: str, here: Path) -> Iterator[Terminal]:
    command, prompt = SHELLS[shell]
    with Terminal(command, columns=120, cwd=here) as terminal:
        terminal.send(f"{prompt}\r")
        terminal.wait_for(lambda screen: screen.endswith(f"\n{READY}"))
        terminal.send(f'eval "$(mlx-gptoss completion {shell})"; clear\r')
        terminal.wait_for(lambda screen: screen == READY)
        yield terminal


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_words_and_files(shell: str, home: Path) -> None:
    needs(shell)
    saved(Sessions.open(), scripted_runtime("x"), "Ferries to Oslo")
    [kept] = Sessions.open().list()
    conversation = (
        f"sessions show {kept.short_id[:3]}",
        f"sessions show {kept.short_id}",
    )
    with shell_with_completion(shell, home / "here") as terminal:
        for typed, completed in [*TYPED, conversation]:
            terminal.send(f"mlx-gptoss {typed}\t")
            terminal.wait_for(f"{READY} mlx-gptoss {completed}")
            terminal.send("\x15\x0c")  # Ctrl-U, Ctrl-L
            terminal.wait_for(lambda screen: screen == READY)


def by_fish(line: str, here: Path) -> dict[str, str]:
    """Return what fish completes, with the descriptions that it shows."""
    script = "mlx-gptoss completion fish | source; complete -C $argv[1]"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, f"mlx-gptoss {line}"],
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    parts = (line.partition("\t") for line in done.stdout.splitlines())
    return {word: description for word, _, description in parts}


def test_fish_completes_commands_options_models_and_files(home: Path) -> None:
    needs("fish")
    here = home / "here"
    saved(Sessions.open(), scripted_runtime("x"), "Ferries, to Oslo")
    [kept] = Sessions.open().list()
    for typed, completed in TYPED:
        [word] = by_fish(typed, here)
        assert word.rstrip("/") == completed.split()[-1]
    assert by_fish(f"sessions show {kept.short_id[:2]}", here) == {
        kept.short_id: "Ferries, to Oslo"
    }
    # Nothing is cut at a comma.
    described = by_fish("chat --memo", here)["--memory"]
    assert described.startswith("Memory the model may use, such as 16GB")


def test_the_script_of_fish_keeps_commas() -> None:
    """Also where fish is not installed: click's script splits once."""
    done = subprocess.run(
        ["mlx-gptoss", "completion", "fish"], capture_output=True, text=True, check=True
    )
    assert re.findall(r"string split (.*?) \$", done.stdout) == ['--max 1 ","']
