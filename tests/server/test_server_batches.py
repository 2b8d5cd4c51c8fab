"""Files and batches over HTTP, by OpenAI's client: answered, cancelled, resumed."""

import asyncio
import io
import json
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from mlx_gptoss.api.batches.wire import BatchCreation, BatchObject
from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.batches.files import KEPT_SECONDS, FileStore
from mlx_gptoss.server.batches.records import Records
from mlx_gptoss.server.batches.worker import BatchWorker, held_bytes
from mlx_gptoss.server.models import Models
from tests.support.echoing import echoing
from tests.support.live import live
from tests.support.serving import DATE
from tests.workloads.test_batch_run import RAW_URL, chat, content

ENDED = ("completed", "failed", "cancelled")
PATIENCE = 300


@contextmanager
def serving(folder: Path, step_seconds: float = 0) -> Iterator[openai.OpenAI]:
    settings = ServerSettings(date=DATE, store=folder)
    with (
        echoing(step_seconds) as runtime,
        live(runtime, settings) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as made,
    ):
        yield made


def upload(client: openai.OpenAI, rows: list[Any]) -> str:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.files.create(file=("in.jsonl", data), purpose="batch").id


def create(client: openai.OpenAI, rows: list[Any], **more: Any) -> str:
    return client.batches.create(
        input_file_id=upload(client, rows),
        endpoint="/v1/chat/completions",
        completion_window="24h",
        **more,
    ).id


def ended(client: openai.OpenAI, id: str) -> Any:
    end = time.monotonic() + PATIENCE
    while (batch := client.batches.retrieve(id)).status not in ENDED:
        assert time.monotonic() < end, batch
        time.sleep(0.02)
    return batch


def lines_of(client: openai.OpenAI, id: str | None) -> list[dict[str, Any]]:
    assert id is not None
    text = client.files.content(id).text
    return [json.loads(line) for line in text.splitlines()]


def test_a_batch_is_answered(tmp_path: Path) -> None:
    rows = [chat(f"id{n}", f"number {n}", model="demo") for n in range(20)]
    rows[3]["body"]["max_tokens"] = "many"
    rows[4]["body"]["model"] = "gpt-9"
    rows[5]["url"] = RAW_URL
    with serving(tmp_path) as client:
        batch = ended(client, create(client, rows, metadata={"for": "me"}))
        found = lines_of(client, batch.output_file_id)
        errors = lines_of(client, batch.error_file_id)
        listed = client.batches.list(limit=1)
        output = client.files.retrieve(batch.output_file_id)
        names = {one.id for one in client.files.list(purpose="batch_output")}

    assert batch.status == "completed" and batch.metadata == {"for": "me"}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 17, 3)
    answered = [n for n in range(20) if n not in (3, 4, 5)]
    assert [content(line) for line in found] == [f"number {n}" for n in answered]
    assert [line["custom_id"] for line in errors] == ["id3", "id4", "id5"]
    assert errors[1]["response"]["status_code"] == 404
    assert "only" not in str(errors) and "`url`" in errors[2]["error"]["message"]
    assert [one.id for one in listed.data] == [batch.id] and not listed.has_more
    assert output.purpose == "batch_output" and output.bytes > 0
    assert names == {batch.output_file_id, batch.error_file_id}


def test_a_cancelled_batch_keeps_what_is_answered(tmp_path: Path) -> None:
    rows = [chat(f"id{n}", f"number {n}") for n in range(500)]
    with serving(tmp_path, step_seconds=0.0005) as client:
        id = create(client, rows)
        waiting = create(client, rows[:1])
        while not client.batches.retrieve(id).request_counts.completed:  # type: ignore[union-attr]
            time.sleep(0.01)
        client.batches.cancel(id)
        batch = ended(client, id)
        found = lines_of(client, batch.output_file_id)
        assert ended(client, waiting).status == "completed"
        with pytest.raises(openai.ConflictError, match="has ended"):
            client.batches.cancel(id)

    assert batch.status == "cancelled" and batch.cancelled_at
    assert 0 < len(found) < 500
    assert [content(line) for line in found] == [
        f"number {n}" for n in range(len(found))
    ]


def test_a_batch_goes_on_after_a_restart(tmp_path: Path) -> None:
    rows = [chat(f"id{n}", f"number {n}") for n in range(60)]
    with serving(tmp_path, step_seconds=0.001) as client:
        id = create(client, rows)
        while not client.batches.retrieve(id).request_counts.completed:  # type: ignore[union-attr]
            time.sleep(0.01)
        assert client.batches.retrieve(id).status == "in_progress"
    with serving(tmp_path) as client:
        batch = ended(client, id)
        found = lines_of(client, batch.output_file_id)
    assert [content(line) for line in found] == [f"number {n}" for n in range(60)]


def test_a_batch_that_is_cancelled_while_it_is_chosen_is_cancelled(
    tmp_path: Path,
) -> None:
    async def run(runtime: Runtime) -> None:
        store = FileStore(tmp_path / "files")
        worker = BatchWorker(
            tmp_path / "batches", Models.of(runtime, "demo"), store, ServerSettings()
        )
        row = json.dumps(chat("a", "first")).encode()
        file = store.add("in.jsonl", "batch", [row])
        batch = await worker.create(
            BatchCreation(input_file_id=file.id, endpoint="/v1/chat/completions")
        )
        read = worker._records.list

        def read_slowly() -> list[BatchObject]:
            found = read()
            time.sleep(0.3)
            return found

        worker._records.list = read_slowly
        worker.start()
        await asyncio.sleep(0.1)
        await worker.cancel(batch.id)
        while not (await worker.get(batch.id)).ended:
            await asyncio.sleep(0.02)
        assert (await worker.get(batch.id)).status == "cancelled"
        await worker.close()

    with echoing() as runtime:
        asyncio.run(run(runtime))


def test_a_closed_worker_has_left_its_model(tmp_path: Path) -> None:
    """Its batch holds no lease any more, so the model may be closed."""
    rows = [chat(f"id{n}", f"number {n}") for n in range(200)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()

    async def run(runtime: Runtime) -> None:
        models = Models.of(runtime, "demo")
        store = FileStore(tmp_path / "files")
        settings = ServerSettings(date=DATE)
        worker = BatchWorker(tmp_path / "batches", models, store, settings)
        worker.start()
        batch = await worker.create(
            BatchCreation(
                input_file_id=store.add("in.jsonl", "batch", [data]).id,
                endpoint="/v1/chat/completions",
            )
        )
        while not (await worker.get(batch.id)).request_counts.completed:
            await asyncio.sleep(0.01)
        assert models.active_leases == 1
        await worker.close()
        assert models.active_leases == 0
        assert (await worker.get(batch.id)).status == "in_progress"

    with echoing(0.001) as runtime:
        asyncio.run(run(runtime))


def test_a_file_of_other_lines_fails_as_a_whole(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        batch = ended(client, create(client, [{"text": "x"}]))
        assert batch.status == "failed" and batch.errors
        assert batch.errors.data[0].code == "invalid_input"
        with pytest.raises(openai.BadRequestError, match="embeddings"):
            client.batches.create(
                input_file_id=upload(client, []),
                endpoint="/v1/embeddings",
                completion_window="24h",
            )
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            client.batches.create(
                input_file_id="file-" + "0" * 24,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
        with pytest.raises(openai.NotFoundError, match="there is no batch"):
            client.batches.retrieve("batch_1")


def test_a_deleted_file_is_gone_and_its_batch_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        file = upload(client, [chat("a", "first")])
        batch = client.batches.create(
            input_file_id=file,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
        assert client.files.delete(file).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file)
        assert ended(client, batch.id).status == "completed"


def test_an_upload_without_a_file_or_purpose_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        for purpose in ("vision", "fine-tune"):
            with pytest.raises(openai.BadRequestError, match="must be `batch`"):
                client.files.create(file=io.BytesIO(b"{}"), purpose=purpose)  # type: ignore[arg-type]
        url = f"{client.base_url}files"
        for data in ({}, {"purpose": "batch"}, {"file": "text", "purpose": "batch"}):
            reply = httpx2.post(url, data=data)
            assert (
                reply.status_code == 400 and "file" in reply.json()["error"]["message"]
            )


def test_without_a_store_there_are_no_batches() -> None:
    with echoing() as runtime, live(runtime, ServerSettings(date=DATE)) as server:
        for path in ("/v1/files", "/v1/batches", "/v1/files/file-1/content"):
            reply = httpx2.get(server.url + path)
            assert reply.status_code == 400
            assert "--no-store" in reply.json()["error"]["message"]


def test_files_are_private_within_a_quota_and_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "files", quota=100)
    kept = store.add("../a/in.jsonl", "batch", [b"x" * 40, b"y" * 20])
    assert kept.filename == "in.jsonl" and kept.bytes == 60
    with pytest.raises(ApiError, match="exceed the 100 bytes"):
        store.add("b", "batch", [b"z" * 30, b"z" * 11])
    assert [one.id for one in store.list()] == [kept.id]
    paths = list(store.folder.iterdir())
    assert len(paths) == 2  # the bytes and the record
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 31 * 86400)
    assert store.list() == [] and list(store.folder.iterdir()) == []
    for id in (kept.id, "../x", ""):
        with pytest.raises(ApiError, match="no file"):
            store.get(id)


def test_a_batch_that_was_being_finished_is_finished(tmp_path: Path) -> None:
    """As if the server had been killed between moving the replies and saying so."""
    with serving(tmp_path) as client:
        batch = ended(client, create(client, [chat("a", "first")]))
    record = tmp_path / "batches" / f"{batch.id}.json"
    saved = json.loads(record.read_text()) | {"status": "finalizing"}
    record.write_text(json.dumps(saved))
    with serving(tmp_path) as client:
        again = ended(client, batch.id)
        assert again.status == "completed"
        assert content(lines_of(client, again.output_file_id)[0]) == "first"


def test_records_of_ended_batches_expire(tmp_path: Path) -> None:
    worker = BatchWorker(
        tmp_path, Models([]), FileStore(tmp_path / "files"), ServerSettings()
    )
    now = int(time.time())
    long_ago = now - KEPT_SECONDS - 1

    def record(number: int, **fields: Any) -> BatchObject:
        id = f"batch_{number:024x}"
        fields = {"created_at": long_ago} | fields
        made = BatchObject(id=id, endpoint="x", input_file_id="y", **fields)
        Records(tmp_path, BatchObject).save(made)
        return made

    record(1, status="completed", completed_at=long_ago)
    record(2, status="failed", failed_at=long_ago)
    record(3, status="cancelled", cancelled_at=long_ago)
    kept = {
        record(4, status="completed", completed_at=now).id,
        record(5, status="in_progress").id,
    }
    assert {one.id for one in asyncio.run(worker.list())} == kept
    assert {path.stem for path in tmp_path.glob("*.json")} == kept
    with pytest.raises(ApiError, match="there is no batch"):
        asyncio.run(worker.get(f"batch_{1:024x}"))


def test_a_deleted_input_of_a_waiting_batch_counts_as_kept(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    store = FileStore(tmp_path / "files", quota=100, held=partial(held_bytes, folder))
    worker = BatchWorker(folder, Models([]), store, ServerSettings())
    given = store.add("in.jsonl", "batch", [b"x" * 80])
    creation = BatchCreation(input_file_id=given.id, endpoint="/v1/chat/completions")
    asyncio.run(worker.create(creation))
    assert held_bytes(folder) == 0  # it counts once
    store.remove(given.id)
    assert held_bytes(folder) == 80
    with pytest.raises(ApiError, match="would exceed"):
        store.add("more.jsonl", "batch", [b"x" * 21])
    store.add("more.jsonl", "batch", [b"x" * 20])
