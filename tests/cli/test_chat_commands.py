"""The /commands of `chat`, files, pipes: on a scripted model, without a terminal."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.chat import clipboard
from mlx_gptoss.cli.chat.commands import COMMANDS
from mlx_gptoss.cli.chat.commands.sampling import changed
from mlx_gptoss.cli.chat.files import named_files, with_file
from mlx_gptoss.cli.chat.session import SessionOptions, open_conversation
from mlx_gptoss.cli.services import Services
from mlx_gptoss.cli.tool_options import ToolOptions
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import CheckpointError, PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import Answer
from tests.support.scripted_chat import ScriptedModel, scripted_runtime

ONE, TWO, THREE = (
    f"<|channel|>final<|message|>{text}<|return|>" for text in ("one", "two", "three")
)
CODE = "<|channel|>final<|message|>So:\n```py\nx = 1\n```\n<|return|>"


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home / "here")
    return home


def chat(
    *lines: str, replies: tuple[str, ...] = (ONE, TWO, THREE), options: str = ""
) -> Result:
    """Say lines in a pipe; the n-th question gets the n-th reply."""
    return run(
        scripted_runtime(*replies), *options.split(), stdin="\n".join(lines) + "\n"
    )


def run(runtime: Runtime, *options: str, stdin: str) -> Result:
    def load(model: str, **options: Any) -> Runtime:
        return runtime

    words = ["chat", "-m", "demo", "--temperature", "0", *options]
    return CliRunner().invoke(cli, words, obj=Services(load=load), input=stdin)


def messages() -> list[str]:
    """What was said in the chat that was used last."""
    sessions = Sessions.open()
    data = sessions.load(sessions.list()[0].id)
    return [one["content"] for one in data["messages"]]


def test_retry_answers_the_last_question_again() -> None:
    result = chat("a", "b", "/retry")
    assert (result.exit_code, result.stdout) == (0, "one\ntwo\ntwo\n")
    assert messages() == ["a", "one", "b", "two"]


def test_edit_asks_a_question_anew() -> None:
    result = chat("a", "b", "/edit 1 c d")
    assert result.stdout == "one\ntwo\none\n"
    assert messages() == ["c d", "one"]


def test_edit_without_a_number_means_the_last_question() -> None:
    assert chat("a", "b", "/edit c d").exit_code == 0
    assert messages() == ["a", "one", "c d", "two"]


def test_undo_takes_a_turn_back() -> None:
    result = chat("a", "b", "/undo", "c")
    assert result.stdout == "one\ntwo\ntwo\n"
    assert "Removed: b" in result.stderr
    assert messages() == ["a", "one", "c", "two"]


def test_a_branch_leaves_the_chat_as_it_was() -> None:
    result = chat("a", "b", "/branch 1", "c")
    assert "This is a branch with 1 questions; /load " in result.stderr
    branch, before = Sessions.open().list()
    assert (branch.turns, before.turns) == (2, 2)
    assert messages() == ["a", "one", "c", "two"]


def test_chats_are_named_listed_searched_and_loaded() -> None:
    chat("about ferries", "/save Ferries to Oslo")
    chat("about trains")
    listed = chat("/sessions").stderr
    trains, ferries = Sessions.open().list()
    assert trains.short_id in listed and "Ferries to Oslo" in listed
    found = chat("/search ferries").stderr
    assert ferries.short_id in found and trains.short_id not in found
    result = chat(f"/load {ferries.short_id}", "more")
    assert f"Going on with {ferries.short_id}, “Ferries to Oslo”, 1 question" in (
        result.stderr
    )
    assert result.stdout == "two\n"
    assert messages() == ["about ferries", "one", "more", "two"]


def test_a_chat_is_gone_on_with_in_another_run() -> None:
    chat("a", options="--effort high")
    result = chat("b", options="--continue")
    assert result.stdout == "two\n"
    [kept] = Sessions.open().list()
    assert Sessions.open().load(kept.id)["effort"] == "high"
    result = chat("c", options=f"--session {kept.short_id} --effort low")
    assert result.stdout == "three\n"
    assert Sessions.open().load(kept.id)["effort"] == "low"


def test_nothing_to_go_on_with_is_one_line() -> None:
    result = chat("a", options="--continue")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: no chat is saved yet: start one with `mlx-gptoss chat`\n"
    )
    result = chat("a", options="--session abc")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["chat.md", "chat.json"])
def test_a_chat_is_exported_once(name: str) -> None:
    result = chat("a", f"/export {name}")
    assert f"Written to {name}" in result.stderr
    assert stat.S_IMODE(os.stat(name).st_mode) == 0o600
    text = Path(name).read_text()
    if name.endswith(".json"):
        assert [one["content"] for one in json.loads(text)["messages"]] == ["a", "one"]
    else:
        assert text.startswith("# a\n") and "## You\n\na\n" in text
    again = chat("a", f"/export {name}")
    assert again.exit_code == 1
    assert f"`{name}` exists: name another file" in again.stderr
    assert Path(name).read_text() == text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/image cat.png", "gpt-oss reads text only and cannot see pictures"),
        ("/file", "name a file: /file PATH"),
        ("/load", "name a chat by its id"),
        ("/load zzz", "no chat has an id that begins with `zzz`"),
        ("/edit 3 x", "there is no question 3, of 0"),
        ("/branch x", "`x` is not the number of a question"),
        ("/copy", "there is no answer yet"),
        ("/save", "there is nothing to"),
        ("/export", "there is nothing to"),
        ("/tools pyton", "there is no tool `pyton`"),
        ("/model ./none", "./none"),
        ("/settings warmth=2", "/settings takes NAME=VALUE, such as temperature=0.7"),
        ("/settings temperature=hot", "`temperature` is 'hot', expected a number"),
        ("/settings top-p=2", "`top_p` is 2.0, expected a number from 0 to 1"),
        ("/settings seed=1.5", "`seed` is '1.5', expected a whole number"),
    ],
)
def test_a_mistake_is_one_line(line: str, problem: str) -> None:
    result = chat(line)
    assert result.exit_code in (1, 2)
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_help_says_what_one_command_does() -> None:
    assert chat("/help /undo").stderr.startswith("/undo  forget the last question")
    shown = chat("/help").stderr
    for command in COMMANDS:
        assert command.usage in shown and command.help in shown
    assert max(map(len, shown.splitlines())) < 80


def test_a_path_is_no_command() -> None:
    assert chat("/usr/bin is what?").stdout == "one\n"


def test_another_model_goes_on_with_the_conversation() -> None:
    models = {"demo": scripted_runtime(ONE, TWO), "other": scripted_runtime(ONE, THREE)}

    services = Anywhere(load=lambda model, **options: models[model])
    words = ["chat", "-m", "demo", "--temperature", "0"]
    lines = "a\n/model other\nb\n"
    result = CliRunner().invoke(cli, words, obj=services, input=lines)
    assert result.stdout == "one\nthree\n"
    assert models["demo"].closed
    assert messages() == ["a", "one", "b", "three"]


def broken(model: str, **options: Any) -> Runtime:
    if model == "broken":
        raise CheckpointError("its weights are broken")
    return scripted_runtime(ONE, TWO)


class Anywhere(Services):
    """Finds every model."""

    def find(self, model: str, options: Any) -> Path:
        return Path(model)


def test_a_model_that_cannot_be_had_leaves_the_one_before() -> None:
    setup = SessionOptions(
        "low", None, SamplingParams(temperature=0), Constraints(), "error"
    )
    with open_conversation(
        Anywhere(load=broken),
        "demo",
        LoadOptions(harmony=True),
        setup,
        ToolOptions(),
        ask=lambda call: "no",
        store=None,
    ) as conversation:
        list(conversation.send("a"))
        with pytest.raises(CheckpointError, match="its weights are broken"):
            conversation.switch_model("broken")
        *_, answer, _done = conversation.send("b")
        assert isinstance(answer, Answer)
        assert conversation.chat.questions == ["a", "b"]
        assert conversation.model == "demo"


@pytest.mark.parametrize("command", ["/new", "/reset", "/clear"])
def test_a_new_conversation_says_what_becomes_of_the_last(command: str) -> None:
    result = chat("a", command, command, "b")
    last = Sessions.open().list()[1]
    assert result.stderr.splitlines() == [
        f"A new conversation; the last one stays saved: /load {last.id[:8]} goes back "
        f"to it, `mlx-gptoss sessions delete {last.id[:8]}` deletes it",
        "A new conversation",
    ]
    gone = chat("a", command, options="--private").stderr
    assert gone == "A new conversation; the last one was not saved, and is gone\n"


@pytest.mark.parametrize("command", ["/quit", "/exit", "/bye"])
def test_a_command_leaves(command: str) -> None:
    result = chat("a", command, "b")
    assert (result.exit_code, result.stdout) == (0, "one\n")


def test_settings_are_shown_and_changed() -> None:
    runtime = scripted_runtime(ONE, TWO)
    lines = "/settings\n/settings temperature=0.5 top-k 40\n/settings default\na\n"
    shown = run(runtime, stdin=lines).stderr.splitlines()
    rest = "min-p 0.0 · max-tokens none · seed none"
    assert shown == [
        f"temperature 0.0 · top-p 1.0 · top-k 0 · {rest}",
        f"temperature 0.5 · top-p 1.0 · top-k 40 · {rest}",
        f"temperature 1.0 · top-p 1.0 · top-k 0 · {rest}",
    ]


def test_settings_hold_for_the_next_answers() -> None:
    result = chat("/settings max-tokens=8", "a", "/reset", "b")
    assert result.stderr.count("(stopped at --max-tokens") == 2
    params = changed(SamplingParams(seed=7), "seed=none top_p=0.9")
    assert params == SamplingParams(top_p=0.9)


def test_tools_are_given_and_taken() -> None:
    lines = ("/tools", "/tools browser=.", "/tools browser.open=deny", "/tools off")
    shown = chat(*lines).stderr.splitlines()
    none = "The model has no tools: /tools python,browser=FOLDER"
    assert shown[0] == shown[-1] == none
    assert [line.split()[:2] for line in shown[4:7]] == [
        ["browser.search", "allow"],
        ["browser.open", "deny"],
        ["browser.find", "allow"],
    ]


# Files


def test_files_are_named_in_a_message() -> None:
    Path("a.txt").write_text("alpha ``` beta\n")
    Path("b c.md").write_text("gamma")
    result = chat('Compare @a.txt, with @"b c.md" and a@b.c @dataclass.')
    assert messages()[0] == (
        'Compare @a.txt, with @"b c.md" and a@b.c @dataclass.\n\n'
        "`a.txt`:\n````\nalpha ``` beta\n````\n\n`b c.md`:\n```\ngamma\n```"
    )
    assert result.stderr.splitlines() == [
        "(no such file: `dataclass`; the text is sent as it is)",
        "(attached a.txt, 15 tokens)",
        "(attached b c.md, 5 tokens)",
    ]


def test_folders_and_missing_files_are_told_apart_from_code() -> None:
    Path("src").mkdir()
    found = named_files(
        "@src/ @no.txt,\n@dataclass\n@app.route('/x') @b/c a@d.e @~nobody/x"
    )
    assert (found.files, found.folders) == ((), ("src/",))
    assert found.missing == ("no.txt", "b/c", "~nobody/x")
    assert named_files("what is @override?").missing == ("override",)


def test_a_file_that_was_attached_is_not_attached_again() -> None:
    Path("a.txt").write_text("alpha")
    result = chat("@a.txt", "@a.txt again", "/file a.txt")
    assert messages()[2] == "@a.txt again"
    assert result.stderr.splitlines()[1:] == [
        "(`a.txt` is attached already, and did not change)",
        "a.txt is attached already, and did not change",
    ]
    again = chat("/file a.txt", "/file a.txt", "see @a.txt")
    assert again.stderr.count("attached already") == 2
    assert messages()[0].count("alpha") == 1


def test_a_file_that_changed_is_attached_again() -> None:
    Path("a.txt").write_text("alpha")
    chat("@a.txt")
    Path("a.txt").write_text("beta")
    result = chat("@a.txt", options="--continue")
    assert "(attached a.txt, 4 tokens)" in result.stderr
    assert "beta" in messages()[2]


def test_a_file_goes_with_the_next_message() -> None:
    Path("notes.txt").write_text("The ferry goes hourly.")
    result = chat("/file notes.txt", "when?", "and then?")
    assert "notes.txt goes with your next message (22 tokens)" in result.stderr
    assert messages()[0] == with_file("when?", "notes.txt", "The ferry goes hourly.")
    assert messages()[2] == "and then?"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.bin", b"a\0b", "`a.bin` is not text: it contains zero bytes"),
        ("a.txt", b"\xff\xfe", "`a.txt` is not UTF-8 text (byte 0 cannot be read)"),
        ("a.png", b"x", "`a.png` is a picture: gpt-oss reads text only"),
        ("a.log", b"x" * (2**21 + 1), "`a.log` has 2.1 MB, more than the 2.1 MB"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    name: str, content: bytes, problem: str
) -> None:
    Path(name).write_bytes(content)
    result = chat(f"read @{name}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {problem}")


def test_a_file_too_long_for_the_context_loses_nothing() -> None:
    runtime = scripted_runtime(ONE, TWO, context=400)
    Path("long.txt").write_text("word " * 200)
    result = run(runtime, stdin="a\nread @long.txt\n")
    assert result.exit_code == 1 and "tokens" in result.stderr
    assert messages() == ["a", "one"]


# Pipes


def test_a_prompt_is_answered_with_what_is_piped_in() -> None:
    runtime = scripted_runtime(ONE)
    model = runtime.model
    assert isinstance(model, ScriptedModel)
    result = run(runtime, "review this", stdin="diff --git\n+x\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "one\n", "")
    assert "review this\n\n`stdin`:\n```\ndiff --git\n+x\n```<|end|>" in model.text_read
    assert chat("why?", options="--continue").stdout == "two\n"


def test_a_prompt_alone_is_answered_alone() -> None:
    assert run(scripted_runtime(ONE), "hello", stdin="").stdout == "one\n"
    assert messages() == ["hello", "one"]


def test_a_pipe_gets_the_text_as_it_is() -> None:
    result = run(scripted_runtime(CODE), "code", stdin="")
    assert result.stdout == "So:\n```py\nx = 1\n```\n"


# The clipboard


def fake_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_last_answer_or_its_code_is_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    fake_program(tmp_path / "bin", "pbcopy", f"/bin/cat > {copied}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("SSH_TTY", raising=False)
    result = chat("a", "/copy", replies=(CODE,))
    assert "Copied 20 characters with pbcopy" in result.stderr
    assert copied.read_text() == "So:\n```py\nx = 1\n```\n"
    chat("a", "/copy code", replies=(CODE,))
    assert copied.read_text() == "x = 1\n"


def test_a_program_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_program(tmp_path / "bin", "xclip", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("SSH_TTY", raising=False)
    with pytest.raises(PromptError, match="`xclip` could not copy"):
        clipboard.copy("x")


def test_over_ssh_the_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty:
        def __init__(self) -> None:
            self.written = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.written += text

        def flush(self) -> None: ...

    terminal: Any = Tty()
    monkeypatch.setenv("SSH_TTY", "/dev/pts/0")
    monkeypatch.delenv("TMUX", raising=False)
    assert clipboard.copy("né", terminal) == "the terminal (OSC 52)"
    assert terminal.written == "\x1b]52;c;bsOp\x07"
    with pytest.raises(PromptError, match="nothing here can copy this much"):
        clipboard.copy("x" * 100_000, terminal)
