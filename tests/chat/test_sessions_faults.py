"""Faults under `mlx-gptoss sessions`: kills, Ctrl-C, a full disk, a read-only file."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.chat.sessions.checkup import check_chats_file
from mlx_gptoss.errors import SessionError
from tests.support.chat_files import fill, many_levels

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mlx_gptoss", "sessions"]
NOBODY = 65534
SOME, MANY = 4000, 10_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def path(home: Path) -> Path:
    """The path of the user's chats, which does not exist yet."""
    return Sessions.open().path


def sessions(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def stopped_in_the_middle(path: Path, signum: int) -> "tuple[int, str]":
    """Delete everything, and send a signal while the file is changing."""
    journal = path.with_name(f"{path.name}-journal")
    with subprocess.Popen(
        [*COMMAND, "delete", "--all", "--yes"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not journal.exists() and process.poll() is None:
            pass
        process.send_signal(signum)
        assert process.stderr is not None
        return process.wait(60), process.stderr.read()


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)],
    ids=["kill -9", "Ctrl-C"],
)
def test_a_deletion_that_is_stopped_leaves_everything_or_nothing(
    path: Path, signum: int, code: int
) -> None:
    fill(path, SOME)

    found, told = stopped_in_the_middle(path, signum)

    assert found in (code, 0) and "Traceback" not in told
    state = check_chats_file(path)
    assert state is not None and (state.damage, state.broken_index) == ("", "")
    assert state.chats in (0, SOME)
    Sessions.open().delete_all()
    left = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert b"quartz" not in left and b"uar" not in left


def test_ten_thousand_chats_are_deleted_in_seconds(path: Path) -> None:
    fill(path, MANY)

    done = sessions("delete", "--older-than", "30", "--yes")

    # One rebuild takes about 0.1 s; one per chat would take minutes.
    assert done.returncode == 0 and "Deleted 10,000 conversations" in done.stderr
    assert Sessions.open().list() == ()
    assert b"quartz" not in path.read_bytes()


CHATTING = """
import sys
from pathlib import Path
from mlx_gptoss.chat import Chat
from mlx_gptoss.harmony.messages import answer, user
from mlx_gptoss.chat.sessions import Sessions
from tests.support.scripted_chat import scripted_runtime
chat = Chat(scripted_runtime(""), date="")
sessions = Sessions.open(Path(sys.argv[1]))
for line in sys.stdin:
    chat.messages += [user(line), answer("OK")]
    sessions.save(chat)
    print(len(sessions.search("quartz")), flush=True)
"""


def test_a_chat_goes_on_while_another_program_deletes(path: Path) -> None:
    ids = fill(path, 300)
    with subprocess.Popen(
        [sys.executable, "-c", CHATTING, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as chatting:
        assert chatting.stdin is not None and chatting.stdout is not None

        def say() -> int:
            assert chatting.stdin is not None and chatting.stdout is not None
            chatting.stdin.write("hello\n")
            chatting.stdin.flush()
            return int(chatting.stdout.readline())

        counted = [say()]
        Sessions.open().delete(ids[0])
        counted.append(say())
        Sessions.open().delete_all(ids[1:200])
        counted.append(say())
        many_levels(path)
        Sessions.open().mend()
        counted.append(say())
        chatting.stdin.close()
        chatting.wait(60)

    assert counted == [300, 299, 100, 100]
    kept = Sessions.open().list()
    assert len(kept) == 101 and kept[0].turns == 4


def test_two_programs_mend_one_index(path: Path) -> None:
    fill(path, 300)
    many_levels(path)
    both = [
        subprocess.Popen(
            [*COMMAND, "search", "--json", "quartz"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    found = [one.communicate(timeout=60) for one in both]

    assert [len(json.loads(out)) for out, _ in found] == [300, 300]
    assert all("Error" not in told for _, told in found)
    state = check_chats_file(path)
    assert state is not None and (state.damage, state.broken_index) == ("", "")


def no_longer_than(size: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_full_disk_in_the_middle_of_a_rebuild_loses_nothing(path: Path) -> None:
    """Simulate the disk by a limit on the size of files, which the journal exceeds."""
    fill(path, 2000, "quartz " * 4)
    many_levels(path)
    before = path.read_bytes()
    full = {"preexec_fn": no_longer_than(len(before) // 8)}

    found = sessions("search", "--json", "quartz", **full)
    deleted = sessions("delete", "--all", "--yes", **full)

    assert len(json.loads(found.stdout)) == 2000
    assert "searched without the index, which cannot be used" in found.stderr
    assert deleted.returncode == 1 and "Traceback" not in deleted.stderr
    assert "the disk is full: make room" in deleted.stderr.splitlines()[-1]
    assert path.read_bytes() == before
    assert len(Sessions.open().search("quartz")) == 2000
    Sessions.open().delete_all()
    assert b"quartz" not in path.read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_loses_nothing(small_disk: Path) -> None:
    path = Sessions.open(small_disk / "c.sqlite3").path
    fill(path, 2000, "quartz " * 4)
    many_levels(path)
    filler = small_disk / "filler"
    full = pytest.raises(OSError, match="No space left")
    with filler.open("wb", buffering=0) as out, full:
        while True:
            out.write(b"\0" * 4096)
    before, told = path.read_bytes(), []
    kept = Sessions.open(path, say=told.append)

    assert len(kept.search("quartz")) == 2000
    assert len(told) == 1 and "the disk is full: make room" in told[0]
    assert path.read_bytes() == before
    filler.unlink()
    assert kept.delete_all() == 2000 and b"quartz" not in path.read_bytes()


def reads_only(path: Path, ids: list[str]) -> None:
    told: list[str] = []
    kept = Sessions.open(path, say=told.append)

    assert len(kept.list()) == len(kept.search("quartz")) == 300
    assert len(kept.load(ids[0])["messages"]) == 2
    assert len(told) == 1 and "searched without the index" in told[0]
    for work in (lambda: kept.delete(ids[0]), kept.delete_all, kept.mend):
        with pytest.raises(SessionError, match="it is read-only: check its"):
            work()
    state = check_chats_file(path)
    assert state is not None and (state.chats, state.damage) == (300, "")


def test_a_file_that_may_not_be_written_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:  # accessible to another user
        path = Sessions.open(Path(name) / "c.sqlite3").path
        ids = fill(path, 300)
        many_levels(path)
        path.chmod(0o444)
        Path(name).chmod(0o555)
        me = os.geteuid()
        try:
            if me == 0:  # root may write everything
                os.seteuid(NOBODY)
            reads_only(path, ids)
        finally:
            os.seteuid(me)
            Path(name).chmod(0o700)


def test_a_disk_that_may_not_be_written_can_be_read(small_disk: Path) -> None:
    path = Sessions.open(small_disk / "c.sqlite3").path
    ids = fill(path, 300)
    many_levels(path)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    reads_only(path, ids)
