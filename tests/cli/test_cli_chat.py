"""`chat` and `generate` in Harmony on a scripted model, in a pipe."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.cli.terminal import Screen
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.events import Answer, Event, Reasoning
from tests.support.fakes import byte_tokenizer
from tests.support.scripted_chat import ScriptedModel, scripted_runtime

HELLO = (
    "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant"
    "<|channel|>final<|message|>Hello!<|return|>"
)
SUM = "<|channel|>final<|message|>It is 702.<|return|>"


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)


def run(runtime: Runtime, *arguments: str, stdin: str | None = None) -> Result:
    def load(model: str, **options: Any) -> Runtime:
        return runtime

    words = [*arguments, "-m", "demo", "--temperature", "0"]
    return CliRunner().invoke(cli, words, obj=Services(load=load), input=stdin)


def model_of(runtime: Runtime) -> ScriptedModel:
    assert isinstance(runtime.model, ScriptedModel)
    return runtime.model


def test_generate_answers_on_stdout_and_reasons_on_stderr() -> None:
    result = run(scripted_runtime(HELLO), "generate", "hi")
    assert (result.exit_code, result.stdout) == (0, "Hello!\n")
    assert result.stderr == "They greet.\n"


def test_reasoning_can_be_hidden() -> None:
    result = run(scripted_runtime(HELLO), "generate", "hi", "--hide-reasoning")
    assert (result.stdout, result.stderr) == ("Hello!\n", "")


def test_hidden_reasoning_is_not_in_the_json_either() -> None:
    words = ["generate", "hi", "--json"]
    whole = json.loads(run(scripted_runtime(HELLO), *words).stdout)
    hidden = json.loads(run(scripted_runtime(HELLO), *words, "--hide-reasoning").stdout)
    assert whole["reasoning"] == "They greet."
    assert set(whole) - set(hidden) == {"reasoning"}


def test_effort_and_system_reach_the_model() -> None:
    runtime = scripted_runtime(HELLO)
    model = model_of(runtime)
    run(runtime, "generate", "hi", "--effort", "high", "--system", "Be brief.")
    assert "Reasoning: high" in model.text_read
    assert "<|start|>developer<|message|># Instructions\n\nBe brief." in model.text_read


def test_a_piped_chat_answers_line_by_line() -> None:
    result = run(scripted_runtime(HELLO, SUM), "chat", stdin="hi\n\n417 + 285?\n")
    assert (result.exit_code, result.stdout) == (0, "Hello!\nIt is 702.\n")
    assert result.stderr == "They greet.\n"


def test_commands_change_the_conversation() -> None:
    runtime = scripted_runtime(HELLO, SUM)
    model = model_of(runtime)
    lines = "/effort low\n/system Be kind.\nhi\n/stats\n/reset\n/nonsense\nagain\n"
    result = run(runtime, "chat", stdin=lines)
    # After /reset the second question is a first question again.
    assert result.stdout == "Hello!\nHello!\n"
    assert "Reasoning: low" in model.text_read and "Be kind." in model.text_read
    notes = result.stderr.splitlines()
    assert notes[:2] == ["Effort: low", "Instructions: Be kind."]
    assert notes[3].startswith("prompt ")
    assert notes[4].startswith("conversation: ") and notes[4].endswith(" tokens")
    assert notes[5].startswith("A new conversation; the last one stays saved: /load ")
    assert notes[6] == "There is no /nonsense; /help lists the commands"


def test_help_lists_every_command() -> None:
    result = run(scripted_runtime(HELLO), "chat", stdin="/help\n")
    for name in ("/effort", "/system", "/reset", "/stats", "/help", "Ctrl-C"):
        assert name in result.stderr


@pytest.mark.parametrize("arguments", [["chat"], ["generate", "hi"]])
def test_a_vocabulary_without_harmony_is_refused_in_one_line(
    arguments: list[str],
) -> None:
    plain = Runtime(
        ScriptedModel((HELLO,)), tokenizer=byte_tokenizer(["<|endoftext|>"])
    )
    result = run(plain, *arguments, stdin="hi\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "continue text with `mlx-gptoss generate --raw`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_closed_section_starts_the_next_on_its_own_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    for event in (Reasoning("a"), Reasoning("b\n"), Reasoning("c"), Answer("d")):
        screen.show(event)
    screen.end()
    assert capsys.readouterr() == ("d\n", "ab\nc\n")


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown_in_a_terminal(*events: Event) -> str:
    terminal, screen = Terminal(), Screen()
    with redirect_stdout(terminal), redirect_stderr(terminal):
        for event in events:
            screen.show(event)
        screen.end()
    return terminal.getvalue()


def test_a_terminal_dims_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    events = (Reasoning("so"), Reasoning("."), Answer("7"))
    assert shown_in_a_terminal(*events) == "\x1b[2mso.\x1b[0m\n7\n"


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_and_dumb_terminals_are_respected(
    monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]
) -> None:
    monkeypatch.setenv(*variable)
    assert shown_in_a_terminal(Reasoning("so."), Answer("7")) == "so.\n7\n"


def test_a_model_cannot_send_escapes_to_a_terminal() -> None:
    evil = Answer("\x1b]0;title\x07\x1b[2Jdone\x9b1m\ttab\n")
    assert shown_in_a_terminal(evil) == "]0;title[2Jdone1m\ttab\n"
