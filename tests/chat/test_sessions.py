"""Chats on disk: saved and found again, private, whole after a kill, really deleted."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions import Sessions, as_markdown
from mlx_gptoss.chat.sessions.database import APPLICATION
from mlx_gptoss.chat.sessions.store import default_path
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError, SessionError
from mlx_gptoss.harmony.events import Answer
from mlx_gptoss.harmony.messages import (
    Message,
    answer,
    developer,
    preamble,
    reasoning,
    tool_call,
    tool_result,
    user,
)
from tests.support.fakes import answering
from tests.support.scripted_chat import scripted_runtime

ROOT = Path(__file__).parents[2]
GREEDY = SamplingParams(temperature=0)
REPLY = "<|channel|>final<|message|>Yes.<|return|>"
CALL = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>"
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with scripted_runtime(REPLY) as runtime:
        yield runtime


@pytest.fixture(params=[None, False], ids=["full text", "without"])
def sessions(tmp_path: Path, request: pytest.FixtureRequest) -> Sessions:
    return Sessions.open(tmp_path / "chats" / "c.sqlite3", full_text=request.param)


def start(runtime: Runtime, *messages: Message, **options: Any) -> Chat:
    chat = Chat(runtime, **{"params": GREEDY, "date": "2026-01-02"} | options)
    chat.messages = list(messages)
    return chat


def saved(sessions: Sessions, runtime: Runtime, *texts: str) -> Chat:
    """Save a chat whose user said `texts`, each answered by OK."""
    chat = start(runtime, *(m for text in texts for m in (user(text), answer("OK"))))
    sessions.save(chat)
    return chat


def bytes_of(folder: Path) -> bytes:
    """All that lies in a folder, in lower case as the index has it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"".join(path.read_bytes() for path in files).lower()


def test_a_turn_is_saved_as_it_goes(sessions: Sessions) -> None:
    seen: list[list[str]] = []

    def save(chat: Chat) -> None:
        sessions.save(chat)
        roles = [message["role"] for message in sessions.load(chat.id)["messages"]]
        seen.append(roles)

    with answering(CALL, REPLY) as runtime:
        chat = start(runtime, tools=[look], on_change=save)
        list(chat.send("Rain?"))

        loaded = Chat.from_json(runtime, sessions.load(chat.id), tools=[look])

    assert [len(roles) for roles in seen] == [1, 3, 4, 5]
    assert loaded.to_json() == chat.to_json()


def look() -> str:
    """Looks."""
    return "rain"


def test_an_interrupted_answer_and_a_waiting_call_are_resumed(
    sessions: Sessions,
) -> None:
    with answering(REPLY, CALL, REPLY) as runtime:
        options: dict[str, Any] = {"tools": [{"name": "look"}], "params": GREEDY}
        chat = start(runtime, on_change=sessions.save, **options)
        events = chat.send("hi")
        assert next(events) == Answer("Y")
        events.close()
        list(chat.send("Rain?"))

        again = Chat.from_json(runtime, sessions.load(chat.id), **options)

        assert again.messages[:2] == [user("hi"), answer("Y")]
        assert [call.id for call in again.waiting] == ["call_1"]
        list(again.submit_result("call_1", "sun"))
        sessions.save(again)

    assert sessions.load(chat.id)["messages"][-1]["content"] == "Yes."


@pytest.mark.parametrize("change", ["edit", "undo", "regenerate"])
def test_what_is_taken_back_leaves_the_disk_too(
    sessions: Sessions, runtime: Runtime, change: str
) -> None:
    chat = start(runtime, on_change=sessions.save)
    list(chat.send("first"))
    list(chat.send("Xylophone quartz"))
    if change == "undo":
        chat.undo()
    elif change == "edit":
        list(chat.edit(2, "second"))
    else:
        chat.messages.append(answer("Xylophone quartz"))
        sessions.save(chat)
        list(chat.edit(2, "other"))
        list(chat.regenerate())

    assert sessions.search("quartz") == ()
    assert b"quartz" not in bytes_of(sessions.path.parent)
    assert Chat.from_json(runtime, sessions.load(chat.id)).messages == chat.messages


def test_chats_are_listed_the_latest_first(
    sessions: Sessions, runtime: Runtime
) -> None:
    one, two = (saved(sessions, runtime, text) for text in ("one", "two"))
    list(one.send("more"))
    sessions.save(one)

    assert [(s.id, s.title, s.turns) for s in sessions.list()] == [
        (one.id, "one", 2),
        (two.id, "two", 1),
    ]
    assert [s.id for s in sessions.list(limit=1)] == [one.id]
    assert sessions.list()[0].updated == one.updated.isoformat()


def test_a_chat_is_found_by_what_was_said(sessions: Sessions, runtime: Runtime) -> None:
    blue = saved(sessions, runtime, "Why is the Sky blue?", 'He said "no" AND left')
    tokyo = saved(sessions, runtime, "東京の天気は?", "100%_sure")
    thought = start(runtime, user("a"), reasoning("secret thoughts"), answer("b"))
    thought.title = "Named garden"
    sessions.save(thought)

    def found(text: str) -> list[str]:
        return [one.chat.id for one in sessions.search(text)]

    assert found("sky") == found("SKY blue") == found("the kY") == [blue.id]
    assert found("sky red") == []
    assert found('"no" and') == found("he") == [blue.id]
    assert found("東京") == found("京の天気") == found("100%_") == [tokyo.id]
    assert found("%") == [tokyo.id]
    assert found("garden") == [thought.id]
    assert found("secret thoughts") == found("") == found("OR") == []
    assert len(found("ok")) == 2


def test_a_find_shows_where(sessions: Sessions, runtime: Runtime) -> None:
    saved(sessions, runtime, "x " * 100 + "needle\nin " + "y " * 100)

    [one] = sessions.search("needle")

    assert one.snippet.startswith("…x x") and one.snippet.endswith("y y…")
    assert "x needle in y" in one.snippet


def test_deleting_leaves_nothing_behind(sessions: Sessions, runtime: Runtime) -> None:
    kept = saved(sessions, runtime, "keep this")
    texts = [f"Xylophone quartz {n} " + "padding " * 200 for n in range(20)]
    chat = saved(sessions, runtime, *texts)
    assert b"quartz" in bytes_of(sessions.path.parent)
    before = sessions.path.stat().st_size

    assert sessions.delete(chat.id[:9]) == chat.id

    assert b"quartz" not in bytes_of(sessions.path.parent)
    assert sessions.path.stat().st_size < before
    assert [s.id for s in sessions.list()] == [kept.id]
    assert sessions.search("quartz") == ()
    with pytest.raises(SessionError, match="no chat has an id that begins with"):
        sessions.load(chat.id)


def test_the_index_keeps_no_letters_of_what_was_deleted(
    tmp_path: Path, runtime: Runtime
) -> None:
    sessions = Sessions.open(tmp_path / "c.sqlite3")
    saved(sessions, runtime, "keep this")
    sessions.delete(saved(sessions, runtime, "quartz").id)

    with closing(sqlite3.connect(sessions.path)) as db:
        db.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, words, row)")
        terms = {row[0] for row in db.execute("SELECT term FROM temp.terms")}
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")

    assert "kee" in terms and not terms & {"qua", "uar", "art", "rtz"}


def test_a_chat_without_messages_is_not_kept(
    sessions: Sessions, runtime: Runtime
) -> None:
    chat = start(runtime)
    sessions.save(chat)
    assert sessions.list() == ()
    chat.on_change = sessions.save
    list(chat.send("hi"))
    chat.undo()
    assert sessions.list() == ()
    list(chat.send("hi again"))
    assert [s.title for s in sessions.list()] == ["hi again"]


def test_an_id_may_be_shortened_while_it_is_one_chat(
    sessions: Sessions, runtime: Runtime
) -> None:
    chats = [saved(sessions, runtime, "a"), saved(sessions, runtime, "b")]
    for chat, id in zip(chats, ("abc1", "abc2"), strict=True):
        chat.id = id
        sessions.save(chat)

    assert sessions.find("abc1") == "abc1"
    for id in ("abc", ""):
        with pytest.raises(SessionError, match="chats have an id that begins with"):
            sessions.find(id)
    with pytest.raises(SessionError, match="no chat has an id that begins with `%`"):
        sessions.find("%")


def test_files_are_for_their_owner_alone_whatever_the_umask(
    tmp_path: Path, runtime: Runtime
) -> None:
    modes: set[int] = set()
    folder = tmp_path / "deep" / "chats"
    for umask in (0, 0o077, 0o277):
        before = os.umask(umask)
        try:
            sessions = Sessions.open(folder / f"{umask}.sqlite3")
            saved(sessions, runtime, "hi")
            with sessions._database.writing() as db:
                db.execute("UPDATE chats SET title = 'x'")
                names = [path.name for path in folder.iterdir()]
                assert any(name.endswith("-journal") for name in names)
                modes |= {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
        finally:
            os.umask(before)

    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = Sessions.open(tmp_path / "c.sqlite3").path
    path.chmod(0o644)

    Sessions.open(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_where_chats_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "mlx-gptoss" / "chats.sqlite3"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert default_path() == Path("/h/.local/share/mlx-gptoss/chats.sqlite3")
    monkeypatch.setattr(sys, "platform", "darwin")
    support = Path("/h/Library/Application Support/mlx-gptoss")
    assert default_path() == support / "chats.sqlite3"


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    return path


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, runtime: Runtime) -> None:
    newer = Sessions.open(tmp_path / "newer").path
    database(newer, "PRAGMA user_version = 2")
    database(tmp_path / "foreign", "CREATE TABLE bookmarks (url TEXT)")
    noise = tmp_path / "noise"
    noise.write_bytes(b"not a database, but long enough to be looked at" * 30)
    whole = Sessions.open(tmp_path / "damaged")
    saved(whole, runtime, *map(str, range(200)))
    content = whole.path.read_bytes()
    whole.path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    (tmp_path / "folder").mkdir()

    for name, problem in {
        "newer": "it is of version 2, and this mlx-gptoss reads 1: update",
        "foreign": "it is a database of another program",
        "noise": "it is not an SQLite database",
        "folder": "Is a directory",
        "noise/chats": "Not a directory|File exists",
    }.items():
        with pytest.raises(SessionError, match=problem):
            Sessions.open(tmp_path / name)
    with pytest.raises(SessionError, match="it is damaged"):
        whole.load(whole.list()[0].id)
        whole.search("199")
    assert noise.read_bytes().startswith(b"not a database")


def test_a_full_disk_loses_nothing(tmp_path: Path, runtime: Runtime) -> None:
    sessions = Sessions.open(tmp_path / "c.sqlite3")
    chat = saved(sessions, runtime, "first")
    connect = sessions._database._connect

    def small() -> sqlite3.Connection:
        connection = connect()
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    sessions._database._connect = small
    chat.messages.append(user("long " * 50_000))
    with pytest.raises(SessionError, match="the disk is full: make room"):
        sessions.save(chat)
    assert len(sessions.load(chat.id)["messages"]) == 2

    sessions._database._connect = connect
    sessions.save(chat)
    assert len(sessions.load(chat.id)["messages"]) == 3


def test_a_chat_that_another_process_went_on_with_is_not_overwritten(
    tmp_path: Path, runtime: Runtime
) -> None:
    path = tmp_path / "c.sqlite3"
    ours = Sessions.open(path)
    chat = saved(ours, runtime, "hi")
    theirs = Sessions.open(path)
    other = Chat.from_json(runtime, theirs.load(chat.id), params=GREEDY)
    list(other.send("theirs"))
    theirs.save(other)

    list(chat.send("ours"))
    with pytest.raises(SessionError, match="was continued by another program"):
        ours.save(chat)
    ours.save(chat.branch())
    assert {s.turns for s in ours.list()} == {2}

    theirs.delete(chat.id)
    ours.delete(ours.list()[0].id)
    chat = saved(ours, runtime, "hi")
    theirs.delete(chat.id)
    with pytest.raises(SessionError, match="was deleted by another program"):
        ours.save(chat)
    assert ours.list() == ()


def test_threads_may_save_and_read_at_once(
    sessions: Sessions, runtime: Runtime
) -> None:
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            chat = start(runtime)
            for n in range(10):
                chat.messages += [user(f"{name} {n}"), answer("OK")]
                sessions.save(chat)
                assert sessions.search(f"{name} {n}")[0].chat.id == chat.id
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=[f"name{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert [s.turns for s in sessions.list()] == [10] * 4


SAVER = """
import sys
from pathlib import Path
from mlx_gptoss.chat import Chat
from mlx_gptoss.harmony.messages import answer, user
from mlx_gptoss.chat.sessions import Sessions
from tests.support.scripted_chat import scripted_runtime
sessions = Sessions.open(Path(sys.argv[1]))
chat = Chat(scripted_runtime(""), date="")
for n in range(int(sys.argv[3])):
    chat.messages += [user(f"{sys.argv[2]} {n} " + "words " * 300), answer("OK")]
    sessions.save(chat)
    print(n, flush=True)
"""


def saver(path: Path, name: str, turns: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path), name, str(turns)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_save_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite3"  # which both of them make
    processes = [saver(path, name, 20) for name in ("one", "two")]
    for process in processes:
        process.communicate(timeout=60)

    assert [process.returncode for process in processes] == [0, 0]
    assert [s.turns for s in Sessions.open(path).list()] == [20, 20]


def test_a_kill_loses_no_turn_that_was_saved(tmp_path: Path, runtime: Runtime) -> None:
    path = tmp_path / "c.sqlite3"
    told: list[int] = []
    for turns in (3, 11):
        with saver(path, f"run{turns}", 10_000) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(turns)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        told.append(int([line for line in lines if line.endswith("\n")][-1]) + 1)

    sessions = Sessions.open(path)

    counted = [s.turns for s in reversed(sessions.list())]
    assert all(a <= b <= a + 1 for a, b in zip(told, counted, strict=True))
    for summary in sessions.list():
        chat = Chat.from_json(runtime, sessions.load(summary.id))
        assert len(chat.messages) == 2 * summary.turns
    database(path, "INSERT INTO words (words) VALUES ('integrity-check')")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION,)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["say", "cut", "edit"]), st.integers(0, 9), st.text()),
    max_size=12,
)


@settings(max_examples=15, deadline=None)
@given(changes=CHANGES)
def test_whatever_is_changed_the_disk_has_it(
    changes: list[tuple[str, int, str]],
    tmp_path_factory: pytest.TempPathFactory,
    runtime: Runtime,
) -> None:
    sessions = Sessions.open(tmp_path_factory.mktemp("s") / "c.sqlite3")
    chat = start(runtime, user("begin"))
    for what, place, text in changes:
        at = 1 + place % len(chat.messages)
        if what == "say":
            chat.messages += [user(text), answer(text)]
        elif what == "cut":
            del chat.messages[at:]
        elif at < len(chat.messages):
            chat.messages[at] = replace(chat.messages[at], content=text)
        sessions.save(chat)
        assert sessions.load(chat.id) == chat.to_json()


def test_a_chat_is_exported_as_markdown(runtime: Runtime) -> None:
    chat = start(
        runtime,
        user("Why?\n\nReally."),
        reasoning("Hm ``` hm."),
        preamble("I look."),
        tool_call("look", '{"at": "sky"}'),
        tool_result("look", "```\n````code\n"),
        answer("Because **so**."),
        developer("Be brief."),
        user("Thanks"),
        system="Be kind.",
        effort="low",
    )

    text = as_markdown(chat.to_json())

    assert (
        text
        == f"""# Why?

{chat.updated:%Y-%m-%d %H:%M} UTC, effort low

**Instructions**

```
Be kind.
```

## You

Why?

Really.

## gpt-oss

<details><summary>Reasoning</summary>

````
Hm ``` hm.
````

</details>

I look.

Calls `look`:

```json
{{"at": "sky"}}
```

Result of `look`:

`````
```
````code
`````

Because **so**.

(developer message)

## You

Thanks
"""
    )
    with pytest.raises(PromptError, match="not a saved chat"):
        as_markdown({})
