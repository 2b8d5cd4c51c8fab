"""What a person sees while a prompt is read."""

import io
import sys
from collections.abc import Generator
from pathlib import Path
from time import perf_counter, sleep

import pytest

from mlx_gptoss.cli import reading
from mlx_gptoss.cli.reading import ReadingLine, reading_text
from mlx_gptoss.engine.prompt_progress import PromptProgress
from mlx_gptoss.harmony.events import Answer, Event
from tests.support.terminals import Terminal

PROGRAM = """
import sys
from mlx_gptoss.cli import cli, reading
from mlx_gptoss.cli.services import Services
from tests.support.scripted_chat import scripted_runtime
reading.WORTH_A_LINE = 0.1
runtime = scripted_runtime("<|channel|>final<|message|>Hello!<|return|>")
hidden = runtime.model.hidden
def slow(*arguments, **options):
    from time import sleep
    sleep(0.4 if arguments[0].shape[1] > 1 else 0.001)
    return hidden(*arguments, **options)
runtime.model.hidden = slow
cli(sys.argv[1:], obj=Services(load=lambda model, **options: runtime))
"""
LONG = "word " * 280
SEEN = " of 1,"  # in "512 of 1,646 tokens"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "NO_COLOR", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def slow_answer(line: ReadingLine, seconds: float = 0.05) -> Generator[Event]:
    """The events of an answer to a prompt that is read half before them."""
    now = perf_counter()
    line.update(PromptProgress(1000, time=now))
    line.update(PromptProgress(1000, 0, 500, seconds=2.0, time=now))
    sleep(seconds)
    yield Answer("Yes")
    yield Answer(".")


def test_a_line_says_how_the_prompt_is_read_and_goes_with_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "REDRAW", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen(terminal=True)
    line = ReadingLine(screen)
    shown = [screen.getvalue() for _ in line.watch(slow_answer(line))]

    assert "reading the prompt: 500 of 1,000 tokens, 250 tok/s, 2 s left" in shown[0]
    assert shown[0].endswith(reading.ERASE)
    assert shown[0] == shown[1] == screen.getvalue()  # and nothing comes later


@pytest.mark.parametrize(("terminal", "term"), [(False, "xterm"), (True, "dumb")])
def test_there_is_no_line_where_it_could_not_be_removed(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str
) -> None:
    monkeypatch.setattr(reading, "REDRAW", 0.01)
    monkeypatch.setenv("TERM", term)
    line = ReadingLine(screen := Screen(terminal=terminal))

    assert len(list(line.watch(slow_answer(line)))) == 2
    assert screen.getvalue() == ""


def test_what_is_read_within_a_second_is_not_worth_a_line() -> None:
    now = perf_counter()

    assert reading_text(None) == ""
    assert reading_text(PromptProgress(900, time=now)) == ""
    assert reading_text(PromptProgress(900, 0, 300, seconds=0.5, time=now)) == ""
    assert reading_text(PromptProgress(900, 0, 900, seconds=5.0, time=now)) == ""
    assert reading_text(PromptProgress(900, time=now - 2)) == "900 tokens"
    text = reading_text(PromptProgress(900, 0, 300, seconds=3.0, time=now))
    assert text == "300 of 900 tokens, 100 tok/s, 6 s left"


def test_an_answer_that_is_left_early_leaves_no_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "REDRAW", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    line = ReadingLine(screen := Screen(terminal=True))

    def interrupted() -> Generator[Event]:
        yield from slow_answer(line, seconds=0.05)
        line.update(PromptProgress(1000, 0, 500, seconds=2.0, time=perf_counter()))
        sleep(0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(line.watch(interrupted()))
    assert screen.getvalue().endswith(reading.ERASE)
    assert screen.getvalue().count("reading the prompt") >= 2


@pytest.mark.parametrize("raw", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_generate_says_in_a_terminal_how_its_prompt_is_read(raw: bool) -> None:
    words = ["generate", LONG, "-m", "demo", "--temperature", "0", "--max-tokens", "60"]
    words += ["--raw"] if raw else []
    with Terminal([sys.executable, "-c", PROGRAM, *words]) as terminal:
        shown = terminal.wait_for(SEEN)
        assert "reading the prompt: 512 of 1," in shown or "1,024 of" in shown
        assert terminal.end() == 0
        assert "reading the prompt" not in terminal.screen
        assert raw or terminal.screen == "Hello!"


@pytest.mark.soak
def test_a_chat_says_how_its_prompt_is_read() -> None:
    words = ["chat", "-m", "demo", "--temperature", "0"]
    with Terminal([sys.executable, "-c", PROGRAM, *words], columns=90) as terminal:
        terminal.wait_for("\n>")
        terminal.send(LONG + "\r")
        shown = terminal.wait_for(SEEN)
        [line] = [one for one in shown.splitlines() if SEEN in one]
        assert "Reading" in line
        assert " left  Esc stops" in line
        terminal.wait_for("Hello!")
        assert SEEN not in terminal.settle()
        terminal.send("\x04")
        assert terminal.end() == 0
