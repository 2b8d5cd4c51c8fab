"""The search index keeps few levels, is rebuilt if broken, and forgets deletions.

With this Python's SQLite and a newer one, which delete from the index differently.
"""

import sqlite3
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import SessionError
from mlx_gptoss.harmony.messages import answer, user
from tests.support.chat_files import (
    AGES,
    FAULTS,
    FOUND_OTHERWISE,
    OLD,
    age,
    fill,
    many_levels,
    opened,
    run,
)
from tests.support.scripted_chat import scripted_runtime

ENOUGH = 100  # messages: deleting one of them does not rebuild the index
needs_old = pytest.mark.skipif(
    not OLD, reason="this Python's SQLite is not older than 3.42"
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with scripted_runtime("<|channel|>final<|message|>Yes.<|return|>") as runtime:
        yield runtime


@pytest.fixture(params=AGES)
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return age(request.param, monkeypatch)


def said(runtime: Runtime, *texts: str) -> Chat:
    chat = Chat(runtime, date="2026-01-02")
    chat.messages = [m for text in texts for m in (user(text), answer("OK"))]
    return chat


def part(name: str) -> ModuleType:
    """Import a module of `chat.sessions` with the SQLite in use."""
    return import_module(f"mlx_gptoss.chat.sessions.{name}")


def levels(sessions: Any) -> int:
    """Return the levels of the index, and check that the file is otherwise intact."""
    found = part("checkup").check_chats_file(sessions.path)
    assert (found.damage, found.broken_index) == ("", "")
    return found.levels


def content(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.iterdir()).lower()


def take_out(sessions: Any, index: Any, times: int) -> int:
    """Add and delete a message repeatedly; return the highest level count."""
    most = 0
    add = "INSERT INTO messages (chat, place, text, data) VALUES ('a', ?, ?, '{}')"
    with sessions._database.writing() as db:
        db.execute("INSERT INTO chats VALUES ('a', 't', '', '', 1, 1, '{}')")
        for n in range(ENOUGH):
            db.execute(add, [n, f"hello world {n}"])
    with sessions._database.writing() as db:
        for n in range(times):
            db.execute(add, [ENOUGH, f"quartz {n}"])
            index.delete(db, "place = ?", [ENOUGH], indexed=True)
            most = max(most, index.levels(db))
    return most


def test_three_thousand_deletions_leave_an_index_of_few_levels(
    tmp_path: Path, kept: ModuleType
) -> None:
    sessions = kept.Sessions.open(tmp_path / "c.sqlite3")
    index = part("index")

    most = take_out(sessions, index, 3000)

    assert most <= index.MAX_LEVELS + 2
    assert levels(sessions) <= index.MAX_LEVELS
    assert len(sessions.search("world")) == 1 and sessions.search("quartz") == ()
    assert b"quartz" not in content(sessions.path)
    sessions.delete("a")
    assert sessions.list() == ()


@pytest.mark.soak
def test_three_thousand_undos_leave_a_chat_that_is_saved(
    tmp_path: Path, kept: ModuleType, runtime: Runtime
) -> None:
    sessions = kept.Sessions.open(tmp_path / "c.sqlite3")
    chat = said(runtime, *(f"hello world {n}" for n in range(ENOUGH)))
    sessions.save(chat)
    for n in range(3000):
        chat.messages += [user(f"quartz {n}"), answer("OK")]
        sessions.save(chat)
        del chat.messages[-2:]
        sessions.save(chat)

    assert levels(sessions) <= 102
    assert b"quartz" not in content(sessions.path)
    assert sessions.load(chat.id) == chat.to_json()


@pytest.mark.parametrize(
    ("name", "fault"),
    [(AGES[0], fault) for fault in FAULTS]
    + [(AGES[1], fault) for fault in FOUND_OTHERWISE],
)
def test_a_broken_index_is_mended_and_nothing_is_lost(
    tmp_path: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fault: str,
) -> None:
    kept = age(name, monkeypatch)
    path = kept.Sessions.open(tmp_path / "c.sqlite3").path
    ids = fill(path, ENOUGH)
    FAULTS[fault](path)
    told: list[str] = []
    sessions = kept.Sessions.open(path, say=told.append)
    assert len(sessions.list()) == ENOUGH  # works without the index
    assert len(sessions.load(ids[0])["messages"]) == 2

    sessions.delete(ids[-1])
    chat = said(runtime, "Xylophone")
    sessions.save(chat)
    del chat.messages[:]
    sessions.save(chat)

    assert len(told) <= 1 and all("was rebuilt: no chat is lost" in t for t in told)
    assert sorted(one.chat.id for one in sessions.search("quartz")) == ids[:-1]
    assert levels(sessions) < 50
    assert b"quartz 99" not in content(path) and b"xylo" not in content(path)
    with opened(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("work", ["search", "delete_all", "mend"])
def test_a_search_mends_the_index_too(
    tmp_path: Path, kept: ModuleType, work: str
) -> None:
    path = kept.Sessions.open(tmp_path / "c.sqlite3").path
    fill(path, 9)
    many_levels(path)
    told: list[str] = []
    sessions = kept.Sessions.open(path, say=told.append)

    if work == "search":
        assert len(sessions.search("quartz")) == 9
    elif work == "delete_all":
        assert sessions.delete_all() == 9
        assert b"quartz" not in content(path)
    else:
        sessions.mend()

    assert len(told) <= (work != "mend")
    assert levels(sessions) <= 2


@needs_old
def test_a_file_that_an_earlier_version_ruined_is_mended(
    tmp_path: Path, kept: ModuleType
) -> None:
    """The earlier version ran `optimize` after each deletion, which adds two levels."""
    sessions = kept.Sessions.open(tmp_path / "c.sqlite3")
    add = "INSERT INTO messages (chat, place, text, data) VALUES ('a', ?, ?, '{}')"
    with opened(sessions.path) as db:
        db.execute("INSERT INTO chats VALUES ('a', 't', '', '', 1, 1, '{}')")
        db.execute("BEGIN")
        for n in range(ENOUGH):
            db.execute(add, [n, f"hello world {n}"])
        db.execute("COMMIT")
        db.execute("BEGIN")
        while part("index").levels(db) <= 2000:
            db.execute(add, [ENOUGH, "quartz"])
            db.execute("DELETE FROM messages WHERE place = ?", [ENOUGH])
            db.execute("INSERT INTO words (words) VALUES ('optimize')")
        db.execute("COMMIT")
    with opened(sessions.path) as db, pytest.raises(sqlite3.DatabaseError):
        db.execute("SELECT count(*) FROM words").fetchone()
    told: list[str] = []

    sessions = kept.Sessions.open(sessions.path, say=told.append)

    assert len(sessions.search("world")) == 1
    assert len(told) == 1 and levels(sessions) <= 2
    assert b"quartz" not in content(sessions.path)


@needs_old
def test_an_index_of_a_newer_sqlite_is_mended_by_an_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sqlite3"
    with monkeypatch.context() as newer:
        sessions = age(AGES[1], newer).Sessions.open(path)
        take_out(sessions, part("index"), 3)
    with opened(path) as db, pytest.raises(sqlite3.OperationalError, match="format"):
        db.execute("SELECT count(*) FROM words").fetchone()
    told: list[str] = []

    sessions = age(AGES[0], monkeypatch).Sessions.open(path, say=told.append)

    assert len(sessions.search("world")) == 1
    assert len(told) == 1 and levels(sessions) <= 2


@needs_old
def test_a_newer_sqlite_forgets_what_an_older_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secure-delete is a setting of the index, which an older SQLite did not set."""
    path = age(AGES[0], monkeypatch).Sessions.open(tmp_path / "c.sqlite3").path
    ids = fill(path, 200)
    with opened(path) as db:
        db.execute("UPDATE messages SET text = 'wombat' WHERE chat = ?", [ids[7]])
        db.execute("INSERT INTO words (words) VALUES ('rebuild')")
    assert b"wombat" in content(path)

    age(AGES[1], monkeypatch).Sessions.open(path).delete(ids[7])

    assert b"wom" not in content(path)


@pytest.mark.parametrize("chats", [1, ENOUGH], ids=["most", "one of many"])
def test_the_index_keeps_no_letters_of_deleted_text(
    tmp_path: Path, kept: ModuleType, runtime: Runtime, chats: int
) -> None:
    sessions = kept.Sessions.open(tmp_path / "c.sqlite3")
    fill(sessions.path, chats, "keep this")
    chat = said(runtime, "hello", "Xylophone quartz")
    sessions.save(chat)
    assert b"xylo" in content(sessions.path)

    del chat.messages[-2:]
    sessions.save(chat)
    sessions.delete(chat.id)

    assert b"xylo" not in content(sessions.path)
    assert not any(letters in content(sessions.path) for letters in (b"xyl", b"uar"))
    assert len(sessions.search("keep this")) == chats


def test_the_room_of_what_was_deleted_goes_back_to_the_disk(
    tmp_path: Path, kept: ModuleType
) -> None:
    sessions = kept.Sessions.open(tmp_path / "c.sqlite3")
    empty = sessions.path.stat().st_size
    fill(sessions.path, 500, "quartz " * 20)

    assert sessions.delete_all() == 500

    assert sessions.path.stat().st_size <= 2 * empty
    with opened(sessions.path) as db:
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)


def test_a_write_ahead_log_keeps_no_deleted_text(
    tmp_path: Path, kept: ModuleType
) -> None:
    """Another program may set it, and hold the file open."""
    sessions = kept.Sessions.open(tmp_path / "c.sqlite3")
    ids = fill(sessions.path, 300)
    with opened(sessions.path) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("UPDATE chats SET title = 'quartz'")
        assert b"quartz" in sessions.path.with_name("c.sqlite3-wal").read_bytes()
        sessions.delete(ids[0])
        sessions.delete_all()

        assert b"quartz" not in content(sessions.path)


def test_a_chat_without_an_index_is_given_one(tmp_path: Path, kept: ModuleType) -> None:
    path = kept.Sessions.open(tmp_path / "c.sqlite3", full_text=False).path
    with opened(path) as db:
        db.execute("INSERT INTO chats VALUES ('a', 't', '', '', 1, 1, '{}')")
        db.execute("INSERT INTO messages VALUES (1, 'a', 0, 'quartz', '{}')")
    told: list[str] = []

    sessions = kept.Sessions.open(path, say=told.append)

    assert len(sessions.search("uart")) == 1
    assert levels(sessions) <= 2 and len(told) == 1


def test_damage_of_the_chats_themselves_is_not_taken_for_the_index(
    tmp_path: Path, kept: ModuleType
) -> None:
    sessions = kept.Sessions.open(tmp_path / "c.sqlite3")
    ids = fill(sessions.path, 200)
    run(
        sessions.path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
        "WHERE name = 'chats_by_time') WHERE name = 'messages'",
    )
    before = sessions.path.read_bytes()

    for work in (lambda: sessions.delete(ids[3]), sessions.mend):
        with pytest.raises(SessionError, match="it is damaged: move it away, or"):
            work()

    assert sessions.path.read_bytes() == before
