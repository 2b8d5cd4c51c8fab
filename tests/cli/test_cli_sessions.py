"""Conversations that `chat` keeps, and `mlx-gptoss sessions`; what --private leaves."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prompt_toolkit.history import FileHistory

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.input_history import history_file
from mlx_gptoss.cli.serve import STORE
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.prompt_cache.options import default_folder
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.files import config_folder
from mlx_gptoss.server.responses.store import FILE as RESPONSES
from tests.server.test_server_process import started
from tests.support.chat_files import fill, many_levels
from tests.support.scripted_chat import scripted_runtime
from tests.support.serving import question

ROOT = Path(__file__).parents[2]
YES = "<|channel|>final<|message|>Yes.<|return|>"


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLX_GPTOSS_CACHE", "MLX_GPTOSS_MODEL", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def run(*arguments: str, stdin: str | None = None, **options: Any) -> Result:
    def load(model: str, **given: Any) -> Runtime:
        seen.update(given)
        return scripted_runtime(YES)

    seen: dict[str, Any] = options.setdefault("seen", {})
    chat = ["-m", "demo", "--temperature", "0"] if arguments[0] != "sessions" else []
    return CliRunner().invoke(
        cli, [*arguments, *chat], obj=Services(load=load), input=stdin
    )


def chats() -> list[dict[str, Any]]:
    return json.loads(run("sessions", "--json").stdout)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_a_chat_is_kept_and_gone_on_with() -> None:
    run("chat", "--effort", "low", "--system", "Be kind.", stdin="one\ntwo\n")
    [first] = chats()
    assert (first["title"], first["turns"]) == ("one", 2)

    run("chat", stdin="other\n")
    run("chat", "--continue", stdin="more\n")
    run("chat", "--session", first["id"][:6], "--effort", "high", stdin="three\n")

    assert {one["title"]: one["turns"] for one in chats()} == {"one": 3, "other": 2}
    data = json.loads(run("sessions", "show", first["id"], "--json").stdout)
    assert (data["effort"], data["system"]) == ("high", "Be kind.")
    texts = [m["content"] for m in data["messages"] if m["role"] == "user"]
    assert texts == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["chat", "--continue"], 1, "no chat is saved yet"),
        (["chat", "--session", "zz"], 1, "no chat has an id that begins with `zz`"),
        (["chat", "--continue", "--session", "a"], 2, "name a chat each"),
        (["sessions", "show", "zz"], 1, "no chat has an id"),
        (["sessions", "delete"], 2, "give IDs, or --all"),
        (["sessions", "delete", "a", "--all"], 2, "give IDs, or --all"),
        (["sessions", "delete", "--all", "--older-than", "1"], 2, "give IDs, or"),
    ],
)
def test_what_cannot_be_gone_on_with_is_named(
    arguments: list[str], code: int, problem: str
) -> None:
    result = run(*arguments, stdin="")
    assert result.exit_code == code and problem in result.stderr


def test_sessions_are_listed_searched_shown_and_exported(tmp_path: Path) -> None:
    assert run("sessions").stdout == "ID  LAST USED  TURNS  TITLE\n"
    run("chat", stdin="Why is the sky blue?\n")
    [chat] = chats()
    short = chat["id"][:8]

    lines = run("sessions", "list").stdout.splitlines()
    assert lines[1].startswith(short) and lines[1].endswith(
        "1      Why is the sky blue?"
    )
    found = run("sessions", "search", "SKY").stdout
    assert found.startswith(short) and "Why is the sky blue?" in found
    assert run("sessions", "search", "sea").stdout == ""
    as_json = json.loads(run("sessions", "search", "sky", "--json").stdout)
    assert as_json[0]["id"] == chat["id"]
    shown = run("sessions", "show", short).stdout
    assert "## You\n\nWhy is the sky blue?\n\n## gpt-oss\n\nYes." in shown

    for name in ("c.md", "c.json"):
        path = tmp_path / name
        assert run("sessions", "export", short, str(path)).exit_code == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (tmp_path / "c.md").read_text() == shown
    assert json.loads((tmp_path / "c.json").read_text())["id"] == chat["id"]
    again = run("sessions", "export", short, str(tmp_path / "c.md"))
    assert again.exit_code == 2 and "--force" in again.stderr
    forced = ["--force", "--json"]
    run("sessions", "export", short, str(tmp_path / "c.md"), *forced)
    assert json.loads((tmp_path / "c.md").read_text())["id"] == chat["id"]


def test_deleting_asks_and_takes_the_prompts_with_it(tmp_path: Path) -> None:
    for text in ("quartz one\n", "quartz two\n", "three\n"):
        run("chat", stdin=text)
    prompts = tmp_path / ".cache" / "mlx-gptoss" / "prompts" / "digest"
    if sys.platform == "darwin":
        prompts = tmp_path / "Library/Caches/mlx-gptoss/prompts/digest"
    prompts.mkdir(parents=True)
    (prompts / "0-a.safetensors").write_bytes(b"x" * 5000)
    three, two, one = chats()

    refused = run("sessions", "delete", two["id"][:8], stdin="n\n")
    assert refused.exit_code == 1 and len(chats()) == 3 and files(prompts)
    done = run("sessions", "delete", two["id"][:8], one["id"][:8], "--yes")

    assert "Emptied the disk cache: 5 kB freed" in done.stderr
    assert files(prompts) == []
    assert [chat["id"] for chat in chats()] == [three["id"]]
    assert b"quartz" not in Sessions.open().path.read_bytes().lower()
    run("sessions", "delete", "--all", stdin="y\n")
    assert chats() == []


def test_what_was_typed_for_a_chat_goes_with_it() -> None:
    for text in ("quartz one\n", "three\n"):
        run("chat", stdin=text)
    three, one = chats()
    history = FileHistory(str(history_file()))
    for text in ("quartz one", "three\nlines", "/effort low", "quartz two"):
        history.store_string(text)

    run("sessions", "delete", one["id"], "--yes")

    left = list(FileHistory(str(history_file())).load_history_strings())
    assert left == ["quartz two", "/effort low", "three\nlines"]
    assert stat.S_IMODE(history_file().stat().st_mode) == 0o600
    run("sessions", "delete", "--all", "--yes")
    assert not history_file().exists()
    assert [three["title"], chats()] == ["three", []]


def test_what_was_not_used_for_long_is_deleted(tmp_path: Path) -> None:
    run("chat", stdin="three\n")
    fill(Sessions.open().path, 30, "quartz")

    done = run("sessions", "delete", "--older-than", "7", "--yes")

    assert done.stderr.splitlines()[-3:-1] == [
        "Deleting 30 conversations …",
        "Deleted 30 conversations",
    ]
    assert [one["title"] for one in chats()] == ["three"]
    assert b"quartz" not in Sessions.open().path.read_bytes().lower()
    none = run("sessions", "delete", "--older-than", "7", "--yes")
    assert none.exit_code == 0 and len(chats()) == 1
    run("sessions", "delete", "--older-than", "0", "--yes")
    assert chats() == []


def test_it_is_said_what_deleting_does_not_touch(own_home: Path) -> None:
    run("chat", stdin="three\n")
    place = config_folder() / STORE / RESPONSES

    done = run("sessions", "delete", "--all", "--yes")

    assert done.stderr.splitlines()[-1] == (
        f"Not touched: responses that `serve` stored (`{place}`), its log, "
        "exported files, your shell's history, backups"
    )


def test_a_chat_that_is_deleted_goes_after_what_was_typed_for_it() -> None:
    """So that the command can be run again when it ends in between."""
    run("chat", stdin="quartz one\n")
    FileHistory(str(history_file())).store_string("quartz one")

    def fails() -> int:
        raise OSError(28, "No space left on device", "prompts")

    words = ["sessions", "delete", "--all", "--yes"]
    done = CliRunner().invoke(cli, words, obj=Services(forget_prompts=fails))

    assert done.exit_code == 1 and "No space left" in done.stderr
    assert len(chats()) == 1 and not history_file().exists()


def test_a_broken_index_is_mended_in_one_line_or_by_repair() -> None:
    run("chat", stdin="three\n")
    many_levels(Sessions.open().path)

    found = run("sessions", "search", "three")

    assert "three" in found.stdout and len(found.stderr.splitlines()) == 1
    assert "was rebuilt: no chat is lost" in found.stderr
    many_levels(Sessions.open().path)
    repaired = run("sessions", "repair")
    assert repaired.stderr.startswith("Rebuilt the search index of 1 conversation: ")
    assert run("sessions", "search", "three").stderr == ""


def test_a_chat_mends_the_index_and_says_so() -> None:
    run("chat", stdin="one\n")
    many_levels(Sessions.open().path)

    talk = run("chat", "--continue", stdin="two\n")

    assert talk.exit_code == 0 and talk.stderr.count("was rebuilt") == 1
    assert [chat["turns"] for chat in chats()] == [2]


def test_an_undo_that_cannot_be_kept_is_told_at_once() -> None:
    run("chat", stdin="one\n")
    others = Sessions.open()
    kept = others.list()[0].id

    class Deleting(Sessions):
        def load(self, id: str) -> dict[str, Any]:
            data = super().load(id)
            others.delete(kept)
            return data

    words = ["chat", "-m", "demo", "--continue"]
    services = Services(
        load=lambda *_, **__: scripted_runtime(YES), sessions=Deleting.open
    )
    talk = CliRunner().invoke(cli, words, obj=services, input="/undo\n")

    assert "was deleted by another program" in talk.stderr


def test_the_example_goes_on_with_a_chat() -> None:
    program = ROOT / "examples" / "resume.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("Your name is Maria.\n", "")


def test_text_of_a_model_cannot_move_the_cursor() -> None:
    run("chat", stdin="\x1b[2Jhi\x07\n")
    assert "\x1b" not in run("sessions").stdout
    assert "\x1b" not in run("sessions", "search", "hi").stdout


def test_private_keeps_no_chat_and_asks_for_no_disk_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("chat", stdin="kept\n")
    before = files(tmp_path)
    seen: dict[str, Any] = {}
    assert run("chat", "--private", stdin="hi\n", seen=seen).exit_code == 0
    assert seen["options"].cache.disk_bytes == 0
    refused = run("chat", "--private", "--continue", stdin="hi\n")
    assert (refused.exit_code, refused.stdout) == (2, "")
    monkeypatch.setenv("MLX_GPTOSS_PRIVATE", "1")
    run("chat", stdin="hi\n")
    run("generate", "hi", seen=(seen := {}))
    assert seen["options"].cache.disk_bytes == 0

    assert files(tmp_path) == before
    assert [chat["turns"] for chat in chats()] == [1]


def test_the_disk_cache_is_on_and_can_be_sized() -> None:
    for words, size in (
        (["chat"], 4 * 10**9),
        (["generate", "hi"], 4 * 10**9),
        (["chat", "--disk-cache", "1GB"], 10**9),
        (["generate", "hi", "--disk-cache", "0"], 0),
    ):
        seen: dict[str, Any] = {}
        assert run(*words, stdin="", seen=seen).exit_code == 0
        assert seen["options"].cache.disk_bytes == size


def test_a_lower_disk_cache_shrinks_what_is_there_and_private_does_not(
    tmp_path: Path,
) -> None:
    folder = default_folder() / "digest"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.safetensors").write_bytes(bytes(1000))
        os.utime(folder / f"{number}.safetensors", (number, number))

    nowhere = str(tmp_path / "no" / "socket")  # a server that does not start
    for words, left in (
        (["chat", "--disk-cache", "5kB"], "012"),
        (["chat", "--disk-cache", "0", "--private"], "012"),
        (["serve", "--disk-cache", "2kB", "--uds", nowhere], "12"),
        (["generate", "hi", "--disk-cache", "0"], ""),
    ):
        before = len(list(folder.iterdir()))
        result = run(*words, stdin="")
        assert [path.stem for path in sorted(folder.iterdir())] == list(left)
        assert ("freed" in result.stderr) == (len(left) < before)


def test_chats_that_cannot_be_kept_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")

    result = run("chat", stdin="hi\n")

    assert (result.exit_code, result.stdout) == (0, "Yes.\n")
    assert "this chat is not saved" in result.stderr
    listed = run("chat", stdin="hi\n/sessions\n")
    assert "could not be opened when this one began: /export" in listed.stderr
    assert run("chat", "--continue", stdin="").exit_code == 1


LINES = "My name is Maria.\nWhat is my name?\n"


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mlx_gptoss", *arguments]
    return subprocess.run(
        words,
        input=LINES if arguments[0] == "chat" else None,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_the_real_thing_writes_for_its_owner_alone_and_nothing_when_private(
    tmp_path: Path,
) -> None:
    """The real command with the demo model; its folders are watched."""
    system = "You are helpful. " * 40  # worth a file
    options = ["-m", "demo", "--temperature", "0", "--system", system]
    private = process("chat", "--private", *options)
    process("generate", "hi", "--private", *options)
    process("generate", "hi", *options, MLX_GPTOSS_PRIVATE="1")
    assert list(tmp_path.rglob("*")) == []

    kept = process("chat", *options)

    assert kept.stdout == private.stdout
    assert "chats.sqlite3" in files(tmp_path)
    assert any(name.endswith(".safetensors") for name in files(tmp_path))
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*") if p.is_file()}
    assert modes == {0o600}
    process("sessions", "delete", "--all", "--yes")
    assert not any(name.endswith(".safetensors") for name in files(tmp_path))


def test_a_killed_chat_has_every_turn_that_was_answered() -> None:
    words = [sys.executable, "-m", "mlx_gptoss", "chat", "-m", "demo"]
    with subprocess.Popen(
        [*words, "--temperature", "0"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as chat:
        assert chat.stdin is not None and chat.stdout is not None
        chat.stdin.write("My name is Maria.\nTell me a long story.\n")
        chat.stdin.flush()
        assert "Maria" in chat.stdout.readline()
        chat.stdout.read(1)  # it is answering again
        chat.kill()

    [kept] = chats()
    assert (kept["title"], kept["turns"]) == ("My name is Maria.", 2)
    again = subprocess.run(
        [*words, "--temperature", "0", "--continue"],
        cwd=ROOT,
        input="What is my name?\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Maria" in again.stdout.splitlines()[-1]


@pytest.mark.parametrize(("option", "kept"), [("--private", False), ("--lazy", True)])
def test_a_private_server_writes_nothing(
    tmp_path: Path, option: str, kept: bool
) -> None:
    with started(tmp_path, option) as server:
        before = set(files(tmp_path))
        with server.client() as client:
            body = question("What is 1 + 1? " * 40, max_tokens=20)
            reply = client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
        server.child.terminate()
        server.child.wait(60)
        written = set(files(tmp_path)) - before
        assert any(name.endswith(".safetensors") for name in written) == kept
        assert kept or written == set()
