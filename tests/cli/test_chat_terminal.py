"""`chat` as a person sees it: in a real terminal, on a scripted model."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from mlx_gptoss.chat.sessions import Sessions
from tests.support.terminals import PATIENCE, ROOT, Terminal

FINAL = "<|channel|>final<|message|>"
HELLO = (
    "<|channel|>analysis<|message|>They greet. I greet back.<|end|>"
    f"<|start|>assistant{FINAL}Hello!<|return|>"
)
SUM = f"{FINAL}It is 702.<|return|>"
PROGRAM = """
import json, sys
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from tests.support.scripted_chat import scripted_runtime
replies, pause, options, gates = json.loads(sys.argv[1])
runtime = scripted_runtime(*replies, pause=pause, gates=gates)
cli(["chat", "-m", "demo", "--temperature", "0", *options],
    obj=Services(load=lambda model, **options: runtime))
"""
OPEN, SHUT = "\x1b[1;36m[", "\x1b[2m["  # the keys of a question, lit and dimmed
WITH_PYTHON = """
import json, sys
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from tests.support.fakes import answering
runtime = answering(*json.loads(sys.argv[1]))
cli(["chat", "-m", "demo", "--temperature", "0", "--tools", "python"],
    obj=Services(load=lambda model, **options: runtime))
"""
RTL = "שלום עולם, مرحبا"
PROMPT = "\n>"  # each stays where it was answered
ENTER, ESCAPE, CTRL_C, CTRL_D, CTRL_O = "\r", "\x1b", "\x03", "\x04", "\x0f"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "NO_COLOR", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def chat(
    *replies: str,
    pause: float = 0,
    options: str = "",
    gates: Mapping[str, str] | None = None,
    **how: Any,
) -> Terminal:
    """Start `chat` on a model that gives `replies`."""
    given = json.dumps([replies, pause, options.split(), gates])
    return Terminal([sys.executable, "-c", PROGRAM, given], **how)


def final(text: str) -> str:
    return f"{FINAL}{text}<|return|>"


def answer(terminal: Terminal, key: str) -> None:
    """Press a key at the question that stands there, once keys answer it."""
    terminal.wait_for(lambda _: terminal.raw.rfind(OPEN) > terminal.raw.rfind(SHUT))
    terminal.send(key)


def ready(terminal: Terminal, prompts: int) -> str:
    """Wait for the prompt for the so manieth time."""
    return terminal.wait_for(lambda _: terminal.everything.count(PROMPT) >= prompts)


def leave(terminal: Terminal) -> None:
    terminal.settle()
    terminal.send(CTRL_D)
    assert terminal.end() == 0


@pytest.mark.parametrize("key", [ESCAPE, CTRL_C])
def test_a_person_chats_stops_an_answer_and_leaves(key: str) -> None:
    with chat(HELLO, final("on and " * 3000), SUM, pause=0.001) as terminal:
        ready(terminal, 1)
        terminal.send("hi" + ENTER)
        terminal.wait_for("Hello!")
        ready(terminal, 2)
        terminal.send("go on" + ENTER)
        terminal.wait_for("on and on and")
        terminal.send(key)
        terminal.wait_for("(stopped)")
        ready(terminal, 3)
        terminal.send("417 + 285?" + ENTER)
        terminal.wait_for("It is 702.")
        ready(terminal, 4)
        leave(terminal)
    [kept] = Sessions.open().list()
    assert kept.turns == 3


def test_reasoning_is_folded_and_shown_again() -> None:
    with chat(HELLO, HELLO) as terminal:
        ready(terminal, 1)
        terminal.send("hi" + ENTER)
        ready(terminal, 2)
        assert re.search(r"▸ Reasoned for \d+\.\d s, 5 words", terminal.screen)
        assert "They greet" not in terminal.screen
        terminal.send(CTRL_O)
        terminal.wait_for("│ They greet. I greet back.")
        terminal.send("/reasoning show" + ENTER + "again" + ENTER)
        terminal.wait_for(lambda screen: screen.count("│ They greet.") == 2)
        ready(terminal, 3)
        leave(terminal)


def test_a_long_answer_is_neither_cut_nor_doubled() -> None:
    items = "".join(f"- item {n} of the list\n" for n in range(30))
    code = "```python\n" + "".join(f"line_{n} = {n}\n" for n in range(30)) + "```\n"
    tall = " ".join(f"word{n}." for n in range(260))  # a paragraph taller than 24 rows
    with chat(final(f"{items}\n{code}\n{tall}\n\nThe end.")) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("The end.")
        ready(terminal, 2)
        shown = terminal.everything
        leave(terminal)
    assert re.findall(r"item (\d+) of", shown) == [str(n) for n in range(30)]
    assert re.findall(r"line_(\d+) =", shown) == [str(n) for n in range(30)]
    assert re.findall(r"word(\d+)\.", shown) == [str(n) for n in range(260)]


def test_an_answer_survives_a_screen_that_changes_its_size(home: Path) -> None:
    """pyte cuts off what was written for a wider screen, so nothing is under way."""
    text = " ".join(f"word{n}." for n in range(120))
    sizes = [(60, 30), (100, 30), (50, 34), (90, 40)]  # pyte loses rows that go
    words = [f"word{20 * n + 20}." for n in range(len(sizes))]
    gates = {f"{word} word": str(home / word) for word in words}
    with chat(final(f"{text}\n\nThe end."), pause=0.003, gates=gates) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        for word, size in zip(words, sizes, strict=True):
            terminal.wait_for(word)
            terminal.catch_up()
            terminal.resize(*size)
            terminal.wait_for_output_again("Writing", times=2)  # in the new size
            (home / word).touch()
        terminal.wait_for("The end.")
        ready(terminal, 2)
        shown = terminal.everything
        leave(terminal)
    assert re.findall(r"word(\d+)\.", shown) == [str(n) for n in range(120)]
    assert shown.count("Writing") == 0


NARROWED = pytest.mark.xfail(
    reason="tmux 3.3 wraps the empty rows below, too, when a window gets narrower: the "
    "first lines of an answer at the top of the screen go into its history before the "
    "program hears of it, and nothing erases single lines there"
)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([(50, 24), (100, 12)], id="wider"),
        pytest.param([(50, 24), (100, 20), (60, 30)], id="narrow", marks=NARROWED),
    ],
)
def test_an_answer_survives_a_screen_that_wraps_lines_anew(
    sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    """tmux wraps what is printed anew when it is resized, as most terminals do."""
    text = " ".join(f"word{n}." for n in range(120))
    words = [f"word{20 * n + 20}." for n in range(len(sizes))]
    gates = {f"{word} word": str(tmp_path / word) for word in words}
    given = json.dumps([[final(f"{text}\n\nThe end.")], 0.003, [], gates])
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null"]
    command = shlex.join([sys.executable, "-c", PROGRAM, given])
    # Readline gives children the size of pytest's terminal, which `os.environ` hides.
    environment = dict(os.environ)

    def run(*words: str) -> str:
        done = subprocess.run(
            [*tmux, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def screen() -> str:
        return run("capture-pane", "-p", "-J", "-S", "-", "-t", "chat")

    def wait_until(seen: Callable[[str], bool]) -> str:
        deadline = monotonic() + PATIENCE
        while not seen(shown := screen()):
            assert monotonic() < deadline, shown
            sleep(0.05)
        return shown

    run("new-session", "-d", "-x", "80", "-y", "24", "-s", "chat", command)
    try:
        wait_until(lambda shown: ">" in shown)
        run("send-keys", "-t", "chat", "go", "Enter")
        for word, (columns, rows) in zip(words, sizes, strict=True):
            wait_until(lambda shown, word=word: word in shown)
            size = ("-x", str(columns), "-y", str(rows))
            run("resize-window", "-t", "chat", *size)
            (tmp_path / word).touch()
        shown = wait_until(
            lambda shown: "The end." in shown and "Esc stops" not in shown
        )
    finally:
        run("kill-server")
    assert re.findall(r"word(\d+)\.", shown) == [str(n) for n in range(120)]


def test_wide_characters_and_other_directions_survive() -> None:
    text = "日本語の文章です。" * 12 + f"\n\n{RTL}\n\n👩 🎉 naïve é"
    with chat(final(text), columns=50) as terminal:
        ready(terminal, 1)
        terminal.send("안녕 🎉" + ENTER)
        terminal.wait_for("naïve")
        ready(terminal, 2)
        shown = terminal.everything
        leave(terminal)
    assert "> 안녕 🎉" in shown
    assert "".join(re.findall(r"[日本語の文章です。]+", shown)) == text.split("\n")[0]
    assert RTL in shown
    [kept] = Sessions.open().list()
    assert kept.title == "안녕 🎉"


def test_the_models_text_cannot_steer_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b5mblink\x1b]52;c;b3duZWQ=\x07 end"
    thought = f"<|channel|>analysis<|message|>{evil}<|end|><|start|>assistant"
    with chat(thought + final(evil), options="--system x") as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("blink")
        ready(terminal, 2)
        leave(terminal)
        assert terminal.vt.title != "owned"
    for harm in ("\x1b]0;", "\x1b]52;", "\x1b[2J", "\x1b[31mred", "\x9b"):
        assert harm not in terminal.raw


def test_several_lines_are_pasted_typed_and_kept() -> None:
    with chat(HELLO, HELLO, HELLO) as terminal:
        ready(terminal, 1)
        terminal.send("\x1b[200~one\ntwo\r\nthree\x1b[201~" + ENTER)
        ready(terminal, 2)
        terminal.send("four\\" + ENTER + "five" + ESCAPE + ENTER + "six" + ENTER)
        ready(terminal, 3)
        terminal.send("\x1b[A" * 3 + ENTER)  # up, through the lines, to the last one
        ready(terminal, 4)
        leave(terminal)
    sessions = Sessions.open()
    [kept] = sessions.list()
    said = [one["content"] for one in sessions.load(kept.id)["messages"]]
    asked = ["one\ntwo\nthree", "four\nfive\nsix"]
    assert [text for text in said if text in asked][:2] == asked
    [history] = Path.home().rglob("history")
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+four\n+five\n+six" in history.read_text()


def test_commands_and_files_are_completed(home: Path) -> None:
    (home / "notes.txt").write_text("The ferry goes hourly.")
    with chat(HELLO, cwd=home, settings={"PYTHONPATH": str(ROOT)}) as terminal:
        ready(terminal, 1)
        terminal.send("/ef")
        terminal.wait_for("how long the model reasons")
        terminal.send("\t")
        terminal.wait_for("> /effort")
        terminal.send("h")
        terminal.wait_for("\n            high")
        terminal.send("\t")
        terminal.wait_for("> /effort high")
        terminal.send(ENTER)
        terminal.wait_for("Effort: high")
        terminal.wait_for("high effort ·")
        terminal.send("read @no")
        terminal.wait_for("notes.txt")
        terminal.send("\t")
        terminal.wait_for("> read @notes.txt")
        terminal.send(ENTER)
        ready(terminal, 3)
        terminal.wait_for("Hello!")
        leave(terminal)
    sessions = Sessions.open()
    [kept] = sessions.list()
    [asked, *_] = sessions.load(kept.id)["messages"]
    assert "The ferry goes hourly." in asked["content"]


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)(?:;\d+)*m")


def test_no_color_is_respected() -> None:
    answer = final("# T\n`code` and [a](b.c)\n```python\nx = 1\n```")
    seen = []
    for settings in ({}, {"NO_COLOR": "1"}):
        with chat(answer, settings=settings) as terminal:
            ready(terminal, 1)
            terminal.send("go" + ENTER)
            terminal.wait_for("x = 1")
            ready(terminal, 2)
            leave(terminal)
            seen.append(bool(COLOUR.search(terminal.raw)))
    assert seen == [True, False]


def test_a_dumb_terminal_gets_plain_lines() -> None:
    with chat(HELLO, settings={"TERM": "dumb"}) as terminal:
        terminal.wait_for_output("> ")
        terminal.send("hi\r")
        terminal.wait_for("Hello!")
        terminal.send("/effort low\r")
        terminal.wait_for(lambda _: terminal.raw.count("> ") == 3)
        assert "Effort: low" in terminal.screen
        leave(terminal)
        assert "\x1b" not in terminal.raw
        assert "They greet" in terminal.raw


def test_an_answer_that_was_cut_says_so_and_what_to_do() -> None:
    with chat(HELLO, options="--max-tokens 20") as terminal:
        ready(terminal, 1)
        terminal.send("hi" + ENTER)
        terminal.wait_for("(stopped at --max-tokens or the end of the context)")
        terminal.wait_for("(no answer came: raise --max-tokens or --context")
        ready(terminal, 2)
        leave(terminal)


def test_a_private_chat_leaves_nothing(home: Path) -> None:
    with chat(HELLO, options="--private") as terminal:
        ready(terminal, 1)
        terminal.send("my secret" + ENTER)
        ready(terminal, 2)
        assert "private" in terminal.screen
        terminal.send("/save" + ENTER)
        terminal.wait_for("--private saves nothing")
        leave(terminal)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_what_is_typed_during_an_answer_waits_for_the_next_prompt() -> None:
    with chat(final("word " * 80), SUM, pause=0.003) as terminal:
        ready(terminal, 1)
        terminal.send("go" + ENTER)
        terminal.wait_for("word word")
        terminal.send("and 417 + 285?")
        terminal.wait_for("> and 417 + 285?")
        terminal.send(ENTER)
        terminal.wait_for("It is 702.")
        ready(terminal, 3)
        leave(terminal)


def with_demo(*options: str) -> Terminal:
    """Start `chat` on the demo model, with a tool for the weather."""
    program = ["-m", "tests.support.chat_with_weather", "chat", "-m", "demo"]
    command = [sys.executable, *program, "--temperature", "0", *options]
    return Terminal(command, rows=40)


def test_a_whole_conversation_with_the_demo_model() -> None:
    with with_demo() as terminal:
        ready(terminal, 1)
        terminal.send("What is the weather in Oslo?" + ENTER)
        terminal.wait_for("Run get_weather?  [o]nce  [a]lways  [n]o  ne[v]er")
        terminal.send("so always, ")  # typed for the next prompt, not as an answer
        terminal.wait_for("Run get_weather?  Enter, then  [o]nce")
        terminal.wait_for("\n> so always,\n")
        terminal.send(ENTER)
        answer(terminal, "o")
        terminal.wait_for("The temperature is 21.")
        terminal.wait_for("> so always,")
        terminal.send("\x15")  # Ctrl-U
        assert (
            '● get_weather(city="Oslo")\n  ├ allowed once\n  └ {"temperature": 21'
        ) in terminal.screen
        assert "Run get_weather?" not in terminal.screen
        terminal.send("/retry" + ENTER)
        terminal.wait_for("Run get_weather?")  # once was not always
        answer(terminal, "a")
        terminal.wait_for(
            "Run get_weather without asking until you leave?  [y]es  [o]nce"
        )
        answer(terminal, "y")
        terminal.wait_for("allowed always: get_weather, until you leave (/tools")
        ready(terminal, 3)
        terminal.send("/reset" + ENTER + "What is 417 + 285?" + ENTER)
        terminal.wait_for("│ I work in columns")
        terminal.send(ESCAPE)
        terminal.wait_for("(stopped)")
        ready(terminal, 5)
        leave(terminal)
    sums, weather = Sessions.open().list()
    with with_demo("--continue") as terminal:
        terminal.wait_for("“What is 417 + 285?”, 1 question")
        ready(terminal, 2)  # behind the last question, which is shown again
        terminal.send("/retry" + ENTER)
        terminal.wait_for("417 + 285 = 702")
        ready(terminal, 3)
        terminal.send(f"/load {weather.short_id}" + ENTER)
        terminal.wait_for("> What is the weather in Oslo?\n\nThe temperature is 21.")
        leave(terminal)
    assert {one.id: one.turns for one in Sessions.open().list()} == {
        sums.id: 1,
        weather.id: 1,
    }


def test_a_call_is_refused_once_and_for_good() -> None:
    with with_demo() as terminal:
        ready(terminal, 1)
        terminal.send("What is the weather in Oslo?" + ENTER)
        terminal.wait_for("Run get_weather?")
        answer(terminal, "v")
        terminal.wait_for("never allowed: get_weather, until you leave (/tools")
        terminal.wait_for("the user did not allow this call")
        terminal.wait_for(lambda _: PROMPT in terminal.screen[-200:])
        terminal.send("/tools" + ENTER)
        terminal.wait_for("get_weather  deny   Gets the weather for a city.")
        terminal.send("/tools get_weather=allow" + ENTER)
        terminal.wait_for("get_weather  allow")
        terminal.send("/reset" + ENTER + "What is the weather in Oslo?" + ENTER)
        terminal.wait_for("The temperature is 21.")
        leave(terminal)


def test_python_is_not_allowed_by_accident() -> None:
    steps = " ".join(f"step{n}" for n in range(250))
    thought = f"<|channel|>analysis<|message|>{steps}<|end|><|start|>assistant"
    call = "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
    replies = json.dumps([call, thought + call, call, call, final("It is 42.")])
    with Terminal([sys.executable, "-c", WITH_PYTHON, replies], rows=40) as terminal:
        terminal.wait_for(lambda screen: PROMPT in screen or "isolated" in screen)
        if "isolated" in terminal.screen:
            pytest.skip(terminal.screen)
        terminal.send("go" + ENTER)
        terminal.wait_for("Run python?  [o]nce  [a]lways  [n]o  ne[v]er")
        terminal.send(ESCAPE)
        terminal.wait_for("├ not allowed this once")
        terminal.wait_for("(stopped)")
        ready(terminal, 2)
        terminal.send("/retry" + ENTER)
        terminal.wait_for("│ step")
        terminal.send("wa")  # typed ahead of the question
        terminal.wait_for("Run python?  Enter, then  [o]nce")
        terminal.wait_for("\n> wa\n")
        terminal.send("\x1b[200~a\x1b[201~")  # pasted
        terminal.wait_for("\n> waa\n")
        terminal.send("o")
        terminal.wait_for("\n> waao\n")
        assert "allowed once" not in terminal.settle()
        terminal.send(ENTER)
        answer(terminal, "o")
        terminal.wait_for("├ allowed once\n  └ 42")
        terminal.wait_for("Run python?  [o]nce")
        answer(terminal, "a")
        terminal.wait_for(
            "Run python without asking until you leave?  [y]es  [o]nce  [n]o"
        )
        terminal.send("a")  # the same key again
        terminal.wait_for("\n> waaoa\n")
        terminal.send("\x08" + ENTER)
        answer(terminal, "y")
        terminal.wait_for("├ allowed always: python, until you leave (/tools changes")
        terminal.wait_for("It is 42.")
        terminal.wait_for("\n> waao\n")
        assert terminal.screen.count("└ 42") == 3  # the last one unasked
        terminal.send("\x15")  # Ctrl-U
        leave(terminal)


def test_a_question_is_seen_on_the_smallest_screen() -> None:
    call = "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
    replies = json.dumps([call, final("It is 42.")])
    with Terminal([sys.executable, "-c", WITH_PYTHON, replies], rows=3) as terminal:
        terminal.wait_for(lambda screen: PROMPT in screen or "isolated" in screen)
        if "isolated" in terminal.screen:
            pytest.skip(terminal.screen)
        terminal.send("go" + ENTER)
        terminal.wait_for("Run python?  [o]nce  [a]lways  [n]o  ne[v]er")


def test_a_pipe_into_a_terminal_is_answered_in_full_dress() -> None:
    given = json.dumps(
        [[final("# T\n\non and " + "on and " * 400)], 0.002, ["review"], None]
    )
    program = shlex.join([sys.executable, "-c", PROGRAM, given])
    with Terminal(["/bin/sh", "-c", f"echo diff | {program}"]) as terminal:
        terminal.wait_for("on and on and")
        assert "\x1b[1;4mT" in terminal.raw  # a heading
        terminal.send(ESCAPE)  # read from the terminal, as stdin is the pipe
        assert terminal.end() == 130
    sessions = Sessions.open()
    [kept] = sessions.list()
    [asked, *_] = sessions.load(kept.id)["messages"]
    assert asked["content"] == "review\n\n`stdin`:\n```\ndiff\n```"


def test_a_message_that_cannot_be_sent_can_be_changed(home: Path) -> None:
    with chat(SUM, cwd=home, settings={"PYTHONPATH": str(ROOT)}) as terminal:
        ready(terminal, 1)
        terminal.send("@none/x.txt" + ENTER)  # no file: sent as it is
        ready(terminal, 2)
        (home / "a.bin").write_bytes(b"\0")
        terminal.send("read @a.bin" + ENTER)
        terminal.wait_for("Error: `a.bin` is not text: it contains zero bytes")
        terminal.wait_for(lambda screen: screen.count("> read @a.bin") == 2)
        terminal.send("\x08" * 11 + "again" + ENTER)
        terminal.wait_for("> again")
        ready(terminal, 4)
        leave(terminal)


def test_a_question_is_edited_and_the_answer_copied(tmp_path: Path) -> None:
    settings = {"PATH": str(tmp_path), "SSH_TTY": "", "TMUX": ""}  # no programs
    with chat(HELLO, SUM, settings=settings) as terminal:
        ready(terminal, 1)
        terminal.send("hello" + ENTER)
        ready(terminal, 2)
        terminal.send("/edit" + ENTER)
        terminal.wait_for(lambda screen: screen.count("> hello") == 2)
        terminal.send(" again" + ENTER)
        terminal.wait_for(lambda screen: screen.count("Hello!") == 2)
        ready(terminal, 4)  # that of the edit is one
        terminal.send("/copy" + ENTER)
        terminal.wait_for("Copied 6 characters with the terminal (OSC 52)")
        assert "\x1b]52;c;SGVsbG8h\x07" in terminal.raw
        leave(terminal)
    sessions = Sessions.open()
    [kept] = sessions.list()
    assert sessions.load(kept.id)["messages"][0]["content"] == "hello again"


def test_what_is_typed_may_be_lost_but_ends_no_chat(home: Path) -> None:
    with chat(HELLO, SUM, SUM) as terminal:
        ready(terminal, 1)
        [history] = home.rglob("history")
        history.unlink()
        history.mkdir()  # whatever a disk has against it
        terminal.send("hi" + ENTER)
        ready(terminal, 2)
        terminal.send("and now?" + ENTER)
        ready(terminal, 3)
        terminal.wait_for("It is 702.")
        leave(terminal)
    assert (
        terminal.raw.count("The history of typed lines is not saved: it is a folder")
        == 1
    )
    assert "Traceback" not in terminal.raw
