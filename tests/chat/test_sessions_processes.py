"""Threads and processes save chats in one file at once."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.chat.sessions.database import APPLICATION
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import SessionError
from mlx_gptoss.harmony.messages import (
    answer,
    user,
)
from tests.support.saved_chats import GREEDY, REPLY, database, saved, start
from tests.support.scripted_chat import scripted_runtime

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with scripted_runtime(REPLY) as runtime:
        yield runtime


@pytest.fixture(params=[None, False], ids=["full text", "without"])
def sessions(tmp_path: Path, request: pytest.FixtureRequest) -> Sessions:
    return Sessions.open(tmp_path / "chats" / "c.sqlite3", full_text=request.param)


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
    path = tmp_path / "c.sqlite3"  # created by both
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
