"""Responses on disk: bounded, private, there after a restart, gone when deleted."""

import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.errors import GptOssError, StorageError
from mlx_gptoss.server.responses import store as store_module
from mlx_gptoss.server.responses.store import (
    FILE,
    ResponseStore,
    StoredResponse,
    open_store,
)
from tests.support.full_disks import fill, small_disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / FILE


def stored(id: str, previous: str | None = None, text: str = "x") -> StoredResponse:
    items = [{"type": "message", "id": f"q_{id}", "text": f"{text}?"}]
    output = [{"type": "message", "id": f"a_{id}", "text": f"{text}!"}]
    return StoredResponse({"id": id, "output": output}, items, previous)


def ids(items: list[dict[str, Any]] | None) -> list[str] | None:
    return None if items is None else [item["id"] for item in items]


def test_a_response_is_there_after_a_restart(path: Path) -> None:
    store = ResponseStore.open(path)
    store.save(stored("r1", text="half a pair: \ud800"))
    store.close()

    again = ResponseStore.open(path)
    assert again.load("r1") == stored("r1", text="half a pair: \ud800")
    assert again.load("r2") is None
    again.close()


def test_history_is_the_whole_conversation_oldest_first(path: Path) -> None:
    store = ResponseStore.open(path)
    for one in (stored("r1"), stored("r2", "r1"), stored("side", "r1")):
        store.save(one)

    assert ids(store.history("r2")) == ["q_r1", "a_r1", "q_r2", "a_r2"]
    assert ids(store.history("side")) == ["q_r1", "a_r1", "q_side", "a_side"]
    assert store.history("r9") is None
    store.close()


def test_items_get_ids_and_are_found_by_them(path: Path) -> None:
    store = ResponseStore.open(path)
    item: dict[str, Any] = {"type": "message", "text": "hi"}
    store.save(StoredResponse({"id": "r1", "output": [{"id": "a1"}]}, [item], None))

    assert store.find(item["id"]) == item
    assert store.find("a1") == {"id": "a1"}
    assert store.find("nobody") is None
    store.close()


def test_what_was_used_longest_ago_goes_first_and_ends_before_beginnings(
    path: Path,
) -> None:
    store = ResponseStore.open(path, max_responses=4)
    for one in (stored("a1"), stored("a2", "a1"), stored("b1"), stored("b2", "b1")):
        store.save(one)
    assert store.history("a2") is not None  # used now
    store.save(stored("c1"))

    assert [id for id in ("a1", "a2", "b1", "b2", "c1") if store.load(id)] == [
        "a1",
        "a2",
        "b1",
        "c1",
    ]
    assert store.find("q_b2") is None
    store.close()


def test_bytes_are_bounded_too(path: Path) -> None:
    store = ResponseStore.open(path, max_bytes=2000)
    for number in range(20):
        store.save(stored(f"r{number}", text="y" * 100))
    store.save(stored("huge", text="z" * 5000))

    assert store.load("huge") is None
    kept = [n for n in range(20) if store.load(f"r{n}")]
    assert kept == list(range(20 - len(kept), 20))
    assert 3 < len(kept) < 10
    store.close()


def test_a_deleted_response_leaves_nothing_behind(path: Path) -> None:
    store = ResponseStore.open(path)
    store.save(stored("r1", text="secret words"))
    store.save(stored("r2", "r1"))

    assert (store.delete("r1"), store.delete("r1")) == (True, False)
    assert store.history("r2") is None  # its beginning is gone
    store.close()
    assert b"secret words" not in path.read_bytes()


def test_only_its_owner_may_read_it(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o644)
    store = ResponseStore.open(path)
    store.save(stored("r1"))

    files = list(path.parent.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    store.close()


def test_a_damaged_file_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 99)
    store = ResponseStore.open(path)
    store.save(stored("r1"))

    [aside] = path.parent.glob(f"{FILE}.damaged-*")
    assert aside.read_bytes() == b"no database at all" * 99
    store.close()


def test_a_place_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(GptOssError, match=r"cannot be used .* --no-store"):
        ResponseStore.open(tmp_path / "file" / FILE)


def test_the_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    ResponseStore.open(path).close()
    database = sqlite3.connect(path)
    database.execute(f"pragma user_version = {store_module.VERSION + 1}")
    database.close()

    with pytest.raises(GptOssError, match="a newer version"):
        ResponseStore.open(path)


def test_threads_may_use_one_store(path: Path) -> None:
    store = ResponseStore.open(path, max_responses=30)

    def work(name: int) -> None:
        before = None
        for number in range(20):
            store.save(stored(f"{name}-{number}", before))
            before = f"{name}-{number}"
            store.history(before)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    kept = [n for n in range(4) for m in range(20) if store.load(f"{n}-{m}")]
    assert len(kept) == 30
    store.close()


def test_nothing_is_kept_unless_there_is_a_place_for_it(tmp_path: Path) -> None:
    assert open_store(ServerSettings()) is None
    store = open_store(ServerSettings(store=tmp_path))
    assert store is not None
    store.close()
    assert (tmp_path / FILE).is_file()


def test_a_clock_that_goes_back_takes_nothing_new_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResponseStore.open(path, max_responses=3)
    for clock, id in ((5000.0, "a"), (6000.0, "b"), (50.0, "c"), (40.0, "d")):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        store.save(stored(id))
    assert [id for id in "abcd" if store.load(id)] == ["b", "c", "d"]
    assert store.history("b") is not None  # used last, at the same wrong time
    store.save(stored("e"))
    assert [id for id in "bcde" if store.load(id)] == ["b", "d", "e"]


def test_a_store_that_can_only_be_read_is_read(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", 2**20) as disk:
        ResponseStore.open(disk / FILE).save(stored("r1"))
        (disk / FILE).chmod(0o644)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        store = ResponseStore.open(disk / FILE)

        assert ids(store.history("r1")) == ["q_r1", "a_r1"]
        assert store.find("a_r1") is not None
        with pytest.raises(StorageError, match="it is read-only") as found:
            store.save(stored("r2"))
        with pytest.raises(StorageError, match="it is read-only"):
            store.delete("r1")
        assert not found.value.full
    assert "responses cannot be stored for now" in caplog.messages[0]


def test_a_full_disk_at_the_start_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", 2**20) as disk:
        filled = fill(disk)
        store = ResponseStore.open(disk / "deep" / FILE)
        with pytest.raises(StorageError):
            store.save(stored("r1"))
        filled.unlink()
        store.save(stored("r2"))

        assert ids(store.history("r2")) == ["q_r2", "a_r2"]
    [warning] = caplog.messages
    assert "the disk is full: make room" in warning


def test_two_servers_set_one_damaged_file_aside_once(path: Path) -> None:
    stores = [ResponseStore.open(path) for _ in range(2)]
    stores[0].save(stored("r1"))
    path.write_bytes(b"no database" * 999)
    for number, store in enumerate(stores):
        store.save(stored(f"s{number}"))

    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    assert ids(stores[0].history("s1")) == ["q_s1", "a_s1"]
    assert ids(stores[1].history("s0")) == ["q_s0", "a_s0"]


def test_damage_after_damage_overwrites_nothing_that_was_set_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    store = ResponseStore.open(path)
    for number in range(3):
        path.write_bytes(f"{number}".encode() * 9999)
        path.with_name(f"{FILE}-journal").write_bytes(b"of the old one")
        store.save(stored(f"r{number}"))
        assert store.load(f"r{number}") is not None

    aside = [p for p in path.parent.glob("*.damaged-*") if "journal" not in p.name]
    assert sorted(p.read_bytes()[:1] for p in aside) == [b"0", b"1", b"2"]


def test_a_row_that_is_no_json_is_damage(path: Path) -> None:
    store = ResponseStore.open(path)
    store.save(stored("r1"))
    database = sqlite3.connect(path)
    database.execute("update responses set items = '[{'")
    database.commit()
    database.close()

    assert store.history("r1") is None
    assert len(list(path.parent.glob("*.damaged-*"))) == 1


def test_a_folder_in_its_place_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir(0o755)
    (tmp_path / FILE).chmod(0o755)
    with pytest.raises(GptOssError, match="cannot be used"):
        ResponseStore.open(tmp_path / FILE)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o755


SAVING = """
import sys
from pathlib import Path
from tests.server.test_responses_store import ResponseStore, stored
store = ResponseStore.open(Path(sys.argv[1]), max_responses=40)
for number in range(100_000):
    store.save(stored(f"r{number}", text="y" * 9000))
    sys.stdout.write(f"r{number}\\n")
    sys.stdout.flush()
    if number % 7 == 6:
        store.delete(f"r{number - 3}")
"""


def test_a_kill_in_a_write_loses_nothing_that_was_stored(path: Path) -> None:
    last = ""
    for kill in range(2):
        command = [sys.executable, "-c", SAVING, str(path)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as saving:
            assert saving.stdout is not None
            for _ in range(10 + kill):
                last = saving.stdout.readline().decode().strip()
            saving.kill()
        store = ResponseStore.open(path)
        assert ids(store.history(last)) == [f"q_{last}", f"a_{last}"]
    assert list(path.parent.glob("*.damaged-*")) == []
