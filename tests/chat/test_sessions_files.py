"""Files of chats: permissions, other files, full disks."""

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.chat.sessions.store import default_path
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import SessionError
from mlx_gptoss.harmony.messages import (
    user,
)
from tests.support.saved_chats import REPLY, database, saved
from tests.support.scripted_chat import scripted_runtime


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with scripted_runtime(REPLY) as runtime:
        yield runtime


@pytest.fixture(params=[None, False], ids=["full text", "without"])
def sessions(tmp_path: Path, request: pytest.FixtureRequest) -> Sessions:
    return Sessions.open(tmp_path / "chats" / "c.sqlite3", full_text=request.param)


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
