"""Whole lines typed at a terminal that only prints: none decides by accident."""

import os
import pty
import sys
from collections.abc import Iterator
from io import StringIO

import click
import pytest

from mlx_gptoss.chat.tools import Approval
from mlx_gptoss.cli.chat.approval import ApprovalPrompt, with_policy
from mlx_gptoss.cli.chat.plain import PlainInterface
from mlx_gptoss.cli.input_lines import SETTLE, Keyboard, PipedLines, TypedLines, confirm
from mlx_gptoss.harmony.events import ToolCall

PYTHON = ToolCall("call_1", "python", "print(1)")
SEARCH = ToolCall("call_2", "browser.search", "{}")


class Typing(StringIO):
    """A stderr that has someone type at the terminal: what comes next, when asked."""

    def __init__(self, typist: int, *said: str) -> None:
        super().__init__()
        self.typist = typist
        self.said = list(said)

    def write(self, text: str) -> int:
        if "? " in text and self.said:
            os.write(self.typist, self.said.pop(0).encode())
        return super().write(text)


class Clock:
    """Passes a second whenever somebody looks, or what is said of the first looks."""

    def __init__(self, *steps: float) -> None:
        self.now, self.steps = 0.0, list(steps)

    def __call__(self) -> float:
        self.now += self.steps.pop(0) if self.steps else 1.0
        return self.now


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of the terminal that stdin is."""
    ours, theirs = pty.openpty()
    with open(theirs, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


def interface(*steps: float) -> PlainInterface:
    lines = TypedLines()
    lines.keyboard = Keyboard(Clock(*steps))
    return PlainInterface(lines, reasoning="fold")


@pytest.mark.parametrize(
    ("said", "runs", "told"),
    [
        ("y", [True, False], "(allowed once)"),
        ("once", [True, False], "(allowed once)"),
        ("a", [True, True], "(allowed always: browser.search, until you leave"),
        ("n", [False, False], "(not allowed this once)"),
        ("", [False, False], "(not allowed this once)"),
        ("v", [False, False], "(never allowed: browser.search, until you leave"),
    ],
)
def test_a_person_says_once_always_no_or_never(
    said: str,
    runs: list[bool],
    told: str,
    typist: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lasting: dict[str, str] = {}
    stderr = Typing(typist, f"{said}\n", "n\n")
    monkeypatch.setattr(sys, "stderr", stderr)
    approval = Approval("ask", ask=ApprovalPrompt(interface().ask, lasting.__setitem__))
    for run in runs:
        approval = with_policy(approval, *lasting.popitem()) if lasting else approval
        assert (approval.refusal(SEARCH) is None) is run
    assert told in stderr.getvalue()


def test_a_line_must_be_typed_after_the_question(
    typist: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Typing(typist, "a\n", "w\n", "o\n"))
    plain = interface()
    os.write(typist, b"what then?\na\npizz")  # the last is begun only

    assert plain.ask(PYTHON) == "once"

    assert list(plain.lines.keyboard.later) == ["what then?", "a", "pizza", "w"]
    assert plain.lines.keyboard.begun == ""


def test_a_line_that_ends_as_the_question_comes_up_is_kept(
    typist: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Typing(typist, "a\n", "n\n"))
    plain = interface(1, SETTLE / 2)

    assert plain.ask(PYTHON) == "no"
    assert list(plain.lines.keyboard.later) == ["a"]


@pytest.mark.parametrize(
    ("said", "choice"),
    [("y", "always"), ("a", "always"), ("o", "once"), ("n", "no"), ("", "no")],
)
def test_always_is_asked_again_in_lines_too(
    said: str, choice: str, typist: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Typing(typist, "a\n", f"{said}\n")
    monkeypatch.setattr(sys, "stderr", stderr)
    assert interface().ask(PYTHON) == choice
    assert "Run python without asking until you leave? " in stderr.getvalue()


def test_the_end_of_input_is_no(typist: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Typing(typist, "\x04"))
    assert interface().ask(PYTHON) == "no"


def test_what_was_kept_is_said_next(
    typist: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = PipedLines()
    lines.keyboard.later += ["one", "two"]
    lines.keyboard.begun = "thr"
    os.write(typist, b"ee\n\x04")
    assert list(lines) == ["one\n", "two\n", "three\n"]


@pytest.mark.parametrize(("said", "agreed"), [("y", True), ("n", False)])
def test_what_was_typed_ahead_does_not_delete(
    said: str, agreed: bool, typist: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.write(typist, b"y\ny\n")
    monkeypatch.setattr(sys, "stderr", Typing(typist, f"{said}\n"))
    if agreed:
        confirm("Delete it for good? ")
        return
    with pytest.raises(click.Abort):
        confirm("Delete it for good? ")
