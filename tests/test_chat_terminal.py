"""`chat` as a person sees it: in a real terminal, on a scripted model."""

import sys
from pathlib import Path

import pytest

from tests.terminals import Terminal

HELLO = (
    "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant"
    "<|channel|>final<|message|>Hello!<|return|>"
)
SUM = "<|channel|>final<|message|>It is 702.<|return|>"
ENDLESS = "<|channel|>final<|message|>(endless)"
PROGRAM = """
import sys
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from tests.talking import talking
options, replies = sys.argv[1].split(), sys.argv[2:]
replies = [reply.replace("(endless)", "on and " * 3000) for reply in replies]
runtime = talking(*replies)
cli(["chat", "-m", "demo", "--temperature", "0", *options],
    obj=Services(load=lambda model, **options: runtime))
"""
PROMPT = "\n>"  # each stays where it was answered


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "NO_COLOR", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def chat(*replies: str, options: str = "", **how: int | dict[str, str]) -> Terminal:
    """Start `chat` on a model that gives `replies`."""
    command = [sys.executable, "-c", PROGRAM, options, *replies]
    return Terminal(command, **how)  # pyright: ignore[reportArgumentType]


def ready(terminal: Terminal, prompts: int) -> str:
    """Wait for the prompt for the so manieth time."""
    return terminal.wait_for(
        lambda screen: terminal.everything.count(PROMPT) == prompts
    )


def test_a_person_chats_stops_an_answer_and_leaves(own_home: Path) -> None:
    with chat(HELLO, ENDLESS, SUM) as terminal:
        terminal.wait_for(PROMPT)
        terminal.send("hi\r")
        terminal.wait_for("Hello!")
        ready(terminal, 2)
        terminal.send("go on\r")
        terminal.wait_for("on and on and")
        terminal.send("\x03")
        terminal.wait_for("(stopped)")
        ready(terminal, 3)
        terminal.send("417 + 285?\r")
        terminal.wait_for("It is 702.")
        ready(terminal, 4)
        terminal.send("\x04")
        assert terminal.end() == 0
