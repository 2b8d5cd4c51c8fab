"""Keys in a real terminal: typing ahead, suspending, leaving, long pastes."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from mlx_gptoss.chat.sessions import Sessions
from tests.cli.test_chat_terminal import (
    CTRL_C,
    ENTER,
    ESCAPE,
    HELLO,
    PROGRAM,
    SUM,
    chat,
    final,
    home,  # noqa: F401 - a fixture
    leave,
    ready,
)
from tests.support.terminals import ROOT, Terminal

CTRL_Z = "\x1a"


def questions() -> list[str]:
    sessions = Sessions.open()
    [kept] = sessions.list()
    messages = sessions.load(kept.id)["messages"]
    return [one["content"] for one in messages if one["role"] == "user"]


def test_enter_during_an_answer_sends_the_text_after_it() -> None:
    with chat(final("word " * 200), SUM, HELLO, pause=0.003) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("word word")
        terminal.send("417 + 285?")
        terminal.wait_for("> 417 + 285?")
        terminal.send(ENTER + "and th")
        terminal.wait_for("Next: 417 + 285?")
        terminal.wait_for("> and th")
        terminal.wait_for("It is 702.")
        terminal.wait_for(lambda screen: "> and th" in screen and "Next" not in screen)
        terminal.send("anks" + ENTER)
        terminal.wait_for("Hello!")
        leave(terminal)
    assert questions() == ["go", "417 + 285?", "and thanks"]


def test_a_stopped_answer_gives_back_what_waits() -> None:
    with chat(final("word " * 3000), SUM, pause=0.003) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("word word")
        terminal.send("first" + ENTER + "second")
        terminal.wait_for("Next: first")
        terminal.send(ESCAPE)
        terminal.wait_for("(stopped)")
        terminal.wait_for("> first\n  second")
        terminal.send(ENTER)
        terminal.wait_for("It is 702.")
        leave(terminal)
    assert questions() == ["go", "first\nsecond"]


def test_ctrl_c_twice_leaves_from_the_prompt() -> None:
    with chat(HELLO) as terminal:
        ready(terminal, 1)
        terminal.send("half a thought" + CTRL_C)
        terminal.wait_for("Ctrl-C again leaves; so does Ctrl-D")
        ready(terminal, 2)
        terminal.settle()
        terminal.send(CTRL_C)
        assert terminal.end() == 130


@pytest.mark.parametrize("way", ["/quit", "/exit"])
def test_a_command_leaves(way: str) -> None:
    with chat(HELLO) as terminal:
        ready(terminal, 1)
        terminal.send(way + ENTER)
        assert terminal.end() == 0


def test_ctrl_c_twice_leaves_during_an_answer(home: Path) -> None:  # noqa: F811
    gates = {"word word": str(home / "gate")}  # the model does not respond
    with chat(final("word " * 3000), gates=gates) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("Writing")
        terminal.send(CTRL_C)
        terminal.wait_for("Stopping")
        terminal.send(CTRL_C)
        (home / "gate").touch()
        assert terminal.end() == 130


def test_ctrl_c_twice_leaves_after_a_huge_paste(home: Path) -> None:  # noqa: F811
    text = "\n".join(f"line {n} of a long file" for n in range(5000))
    mark = "[paste 1: 5,000 lines]"
    with chat(HELLO) as terminal:
        ready(terminal, 1)
        terminal.paste(text)
        terminal.wait_for(f"> {mark}")
        terminal.send(CTRL_C)
        terminal.wait_for("Ctrl-C again leaves; so does Ctrl-D")
        ready(terminal, 2)
        terminal.settle()
        terminal.send(CTRL_C)
        assert terminal.end() == 130

    gates = {"word word": str(home / "gate")}
    with chat(final("word " * 3000), gates=gates) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("Writing")
        terminal.paste(text)
        terminal.wait_for(f"> {mark}")
        terminal.send(CTRL_C)
        terminal.wait_for("Stopping")
        terminal.send(CTRL_C)
        (home / "gate").touch()
        assert terminal.end() == 130


def test_commands_typed_during_an_answer_run_after_it() -> None:
    with chat(final("word " * 80), pause=0.003) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("word word")
        for line in ("/settings seed=7", "/clear", "and again", "/exit"):
            terminal.send(line + ENTER)
        terminal.wait_for("Next: /settings seed=7")
        assert terminal.end() == 0
    assert "seed 7" in terminal.raw
    assert "the last one stays saved" in terminal.raw
    assert [one.title for one in Sessions.open().list()] == ["and again", "go"]


def test_ctrl_z_suspends_the_prompt_and_an_answer() -> None:
    given = json.dumps([[final("word " * 400), SUM], 0.003, [], None])
    program = shlex.join([sys.executable, "-c", PROGRAM, given])
    with Terminal(["/bin/bash", "--norc", "--noprofile", "-i"], rows=40) as terminal:
        terminal.send(f"{program}; echo left\n")
        terminal.wait_for("/help for help")
        terminal.settle()
        for at in ("the prompt", "an answer"):
            if at == "an answer":
                terminal.send("go" + ENTER)
                terminal.wait_for("word word")
            before = terminal.raw.count("Stopped")
            terminal.send(CTRL_Z)
            terminal.wait_for(lambda _, n=before: terminal.raw.count("Stopped") > n)
            terminal.send("echo in the $((1 + 1))nd shell\n")
            terminal.wait_for("in the 2nd shell")
            terminal.send("fg\n")
            terminal.wait_for("tok/s" if at == "an answer" else "demo ·")
        terminal.wait_for(lambda screen: "Esc stops" not in screen)
        terminal.send("417 + 285?" + ENTER)
        terminal.wait_for("It is 702.")
    assert terminal.raw.count("word ") >= 400


def test_a_long_paste_is_folded_sent_whole_and_kept() -> None:
    text = "\n".join(f"line {n}" for n in range(60))
    with chat(HELLO, HELLO) as terminal:
        ready(terminal, 1)
        terminal.send(f"see \x1b[200~{text}\x1b[201~ please")
        terminal.wait_for("> see [paste 1: 60 lines] please")
        terminal.send(ENTER)
        ready(terminal, 2)
        assert "line 30" not in terminal.everything
        terminal.send("\x1b[200~" + text + "\x1b[201~\x08again" + ENTER)
        ready(terminal, 3)
        leave(terminal)
    assert questions() == [f"see {text} please", "again"]
    [history] = Path.home().rglob("history")
    assert "+line 30\n" in history.read_text()


def test_files_that_are_named_are_told(home: Path) -> None:  # noqa: F811
    (home / "notes.txt").write_text("The ferry goes hourly.")
    (home / "docs").mkdir()
    with chat(HELLO, cwd=home, settings={"PYTHONPATH": str(ROOT)}) as terminal:
        ready(terminal, 1)
        terminal.send("read @notes.txt and @docs and @none.txt" + ENTER)
        terminal.wait_for("(attached notes.txt, 22 tokens)")
        terminal.wait_for("(`docs` is a folder: name a file in it)")
        terminal.wait_for("(no such file: `none.txt`; the text is sent as it is)")
        terminal.wait_for("Hello!")
        leave(terminal)
