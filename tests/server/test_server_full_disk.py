"""A server on a disk that takes no more, and whose files are taken away."""

import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss.errors import StorageError
from mlx_gptoss.server import process as running
from mlx_gptoss.server.drain import Drain
from mlx_gptoss.server.log_file import LogFile
from mlx_gptoss.server.responses.store import FILE, ResponseStore, StoredResponse
from tests.support import sse
from tests.support.full_disks import fill, limit_of, small_disk
from tests.support.serve_process import Served, serve

SIZE = 4 * 2**20
STORE = f"mlx-gptoss/server/{FILE}"
ASKED = {"model": "demo", "max_output_tokens": 2, "temperature": 0}


@dataclass(frozen=True)
class Place:
    """A server that runs, a client of it, and the folder it keeps things in."""

    folder: Path
    served: Served
    client: httpx2.Client

    @property
    def store(self) -> Path:
        return self.folder / STORE

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, text: str, **fields: Any) -> dict[str, Any]:
        reply = self.client.post("/responses", json=ASKED | {"input": text} | fields)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def status(self, id: str) -> int:
        return self.client.get(f"/responses/{id}").status_code


@contextmanager
def serving(folder: Path) -> Iterator[Place]:
    own = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    log = str(folder / "log")
    with serve("--log-file", log, env=os.environ | own) as server:
        headers = {"authorization": f"Bearer {server.token}"}
        client = httpx2.Client(base_url=server.v1, headers=headers, timeout=60)
        with client:
            yield Place(folder, server, client)
        assert "Traceback" not in server.log.read_text() + (folder / "log").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("server")) as found:
        yield found


def test_a_stored_response_is_read_and_deleted_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk, serving(disk) as place:
        first = place.ask("My name is Maria.")
        secret = place.ask("A secret.", previous_response_id=first["id"])
        filled = fill(disk)
        told = place.client.get(f"/responses/{first['id']}").json()
        items = place.client.get(f"/responses/{secret['id']}/input_items").json()
        after = place.ask("And now?", previous_response_id=first["id"])
        gone = place.client.delete(f"/responses/{secret['id']}").status_code
        left = b"A secret." in place.store.read_bytes()
        filled.unlink()
        later = place.ask("Is there room?")

        assert told == first
        assert [one["content"][0]["text"] for one in items["data"]] == [
            "A secret.",
            "My name is Maria.",
        ]
        assert (first["store"], after["store"], later["store"]) == (True, False, True)
        assert (gone, left) == (200, False)
        kept = [place.status(one["id"]) for one in (first, secret, after, later)]
        assert kept == [200, 404, 404, 200]
        assert place.log.count("a response could not be stored") <= 1  # is one line


def test_a_stored_response_is_read_where_files_may_not_grow(place: Place) -> None:
    """Not even what is there may be written to: nothing can be deleted."""
    first = place.ask("My name is Maria.")
    with limit_of(place.served.pid, 64):
        told = place.client.get(f"/responses/{first['id']}").json()
        after = place.ask("And now?", previous_response_id=first["id"])
        events = streamed(place, "And here?")
        refused = place.client.delete(f"/responses/{first['id']}")
    gone = place.client.delete(f"/responses/{first['id']}")
    place.client.get("/models")  # by then the log has a line of what was before

    assert "lines are missing here" in place.log
    assert (told, after["store"]) == (first, False)
    assert [one["response"]["store"] for one in events if "response" in one] == [
        True,
        True,
        False,
    ]
    assert (refused.status_code, gone.status_code) == (507, 200)
    assert refused.json()["error"] == {
        "message": "what this server stores cannot be changed or read now: the disk "
        "is full: make room",
        "type": "server_error",
        "param": None,
        "code": "insufficient_storage",
    }


def streamed(place: Place, text: str) -> list[dict[str, Any]]:
    body = ASKED | {"input": text, "stream": True}
    reply = place.client.post("/responses", json=body)
    return sse.objects(reply.text)


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_its_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replaced_by_another(path: Path) -> None:
    path.rename(path.with_name("moved"))
    ResponseStore.open(path).save(StoredResponse({"id": "resp_of_another"}, []))


@pytest.mark.parametrize(
    "change", [removed, emptied, without_its_folder, replaced_by_another]
)
def test_a_store_that_is_taken_away_is_begun_anew(
    place: Place, change: Callable[[Path], None]
) -> None:
    before = place.ask("hi")
    lines = place.log.count("was removed: a new one is created")
    change(place.store)
    assert place.status(before["id"]) == 404
    after = place.ask("hi")

    assert place.ask("ho", previous_response_id=after["id"])["store"]
    assert stat.S_IMODE(place.store.stat().st_mode) == 0o600
    told = place.log.count("was removed: a new one is created") - lines
    assert told == (change in (removed, without_its_folder))


def overwritten(path: Path) -> None:
    path.write_bytes(b"no database" * 9999)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeroed_within(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


@pytest.mark.parametrize("harm", [overwritten, cut_short, zeroed_within])
def test_a_damaged_store_is_set_aside_at_once(
    place: Place, harm: Callable[[Path], None]
) -> None:
    before = place.ask("hi")
    aside = set(place.store.parent.glob("*.damaged-*"))
    lines = place.log.count("is damaged")
    harm(place.store)
    damaged = place.store.read_bytes()
    after = place.ask("hi")  # is stored, whatever the store was

    assert (after["store"], place.status(after["id"])) == (True, 200)
    assert place.status(before["id"]) == 404
    [new] = set(place.store.parent.glob("*.damaged-*")) - aside
    assert new.read_bytes() == damaged
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert place.log.count("is damaged") == lines + 1
    assert f"kept as `{new.name}`" in place.log


def test_a_log_that_is_renamed_or_removed_is_begun_anew(place: Place) -> None:
    log = place.folder / "log"
    log.rename(place.folder / "log.1")
    place.client.get("/models")
    assert (place.log.count("GET /v1/models"), place.log.count("\n")) == (1, 1)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    log.unlink()
    place.client.get("/models")
    assert place.log.count("\n") == 1


def test_a_log_in_a_folder_that_is_gone_ends_no_request(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "logs"
    folder.mkdir()
    log = LogFile(folder / "log", warn=said.append)
    shutil.rmtree(folder)
    for _ in range(3):
        log.emit(logging.makeLogRecord({"msg": "lost"}))
    folder.mkdir()
    log.emit(logging.makeLogRecord({"msg": "back"}))
    log.close()

    assert (folder / "log").read_text() == "\n3 lines are missing here\nback\n"
    assert len(said) == 1


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An app that starts and stops."""
    while scope["type"] == "lifespan":
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return


def test_a_ready_file_that_cannot_be_written_ends_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for it would wait for ever. No model is loaded for nothing."""
    folder = tmp_path / "run"
    place = running.ServeOptions(port=0, ready_file=folder / "ready")
    why = rf"`{place.ready_file}` cannot be written: its folder does not exist"
    with pytest.raises(StorageError, match=why):
        running.listen(place)
    folder.mkdir()
    listening = running.listen(place)
    folder.rmdir()
    with listening, pytest.raises(StorageError, match=why):
        running.serve(nothing, listening, place, {}, Drain())

    assert [one for one in caplog.records if one.levelno > logging.INFO] == []


def test_a_ready_file_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        place = running.ServeOptions(port=0, ready_file=disk / "ready")
        listening = running.listen(place)
        fill(disk)
        with listening, pytest.raises(StorageError, match="the disk is full"):
            running.serve(nothing, listening, place, {}, Drain())
        assert [path.name for path in disk.iterdir()] == ["fill"]
