"""Batches in the background: one after another, and gone on with after a restart.

    worker = BatchWorker(folder, models, store, settings)
    worker.start()                      # goes on with what is unfinished
    batch = await worker.create(request)
    await worker.close()                # the batch that runs goes on next time

A batch takes half of the places of a model's batch, so that other requests find some;
where the queue is full its rows wait. All its rows are for the model that the first one
names, or its adapters.
"""

import asyncio
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlx_gptoss import files
from mlx_gptoss.api.batches.wire import (
    BatchCreation,
    BatchErrorEntry,
    BatchErrors,
    BatchObject,
)
from mlx_gptoss.api.errors import ApiError, as_api_error, bad_request
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.scheduler.options import DEFAULT_RUNNING
from mlx_gptoss.errors import BatchError
from mlx_gptoss.server.batches.files import KEPT_SECONDS, FileStore, new_file_id
from mlx_gptoss.server.batches.records import Records
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.policies import ServedPolicies
from mlx_gptoss.workloads.batch import BatchJob
from mlx_gptoss.workloads.batch.endpoints import Refuse
from mlx_gptoss.workloads.batch.inputs import open_input
from mlx_gptoss.workloads.batch.run import URLS, BatchProgress

log = logging.getLogger(__name__)

OUTPUT_PURPOSE = "batch_output"
ID_BYTES = 12
INPUT, OUTPUT, ERRORS = "input.jsonl", "output.jsonl", "errors.jsonl"
SAVE_SECONDS = 1.0  # between records of the counts
BATCH_PLACES = DEFAULT_RUNNING // 2


@dataclass
class BatchWorker:
    """The batches of one server. For one event loop."""

    folder: Path
    models: Models
    store: FileStore
    settings: ServerSettings
    policies: ServedPolicies | None = None
    _records: Records[BatchObject] = field(init=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    # Held while the next batch is chosen, or one is changed from outside.
    _choice: asyncio.Lock = field(default_factory=asyncio.Lock)
    _task: "asyncio.Task[None] | None" = None
    _running: BatchObject | None = None
    _answering: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self._records = Records(self.folder, BatchObject)

    def start(self) -> None:
        """Begin to work through the batches that are there, and to come."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop. What is unfinished goes on when a server is started again."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def create(self, request: BatchCreation) -> BatchObject:
        """Register a batch. Raises ApiError for one that could not be answered."""
        if request.endpoint not in URLS:
            known = ", ".join(URLS)
            raise bad_request(
                f"batches of `{request.endpoint}` are not answered: use one of {known}",
                param="endpoint",
            )
        await asyncio.to_thread(self.store.get, request.input_file_id)
        batch = BatchObject(
            id=f"batch_{secrets.token_hex(ID_BYTES)}",
            endpoint=request.endpoint,
            input_file_id=request.input_file_id,
            created_at=int(time.time()),
            metadata=request.metadata,
            output_expires_after=request.output_expires_after,
        )
        await asyncio.to_thread(self._keep_input, batch)
        await self._save(batch)
        self._wake.set()
        return batch

    async def get(self, id: str) -> BatchObject:
        """Return a batch as it is now. Raises ApiError (404)."""
        if self._running is not None and self._running.id == id:
            return self._running
        found = await asyncio.to_thread(self._records.load, id)
        if found is None:
            raise ApiError(404, f"there is no batch `{id}`", "not_found", "batch_id")
        return found

    async def list(self) -> list[BatchObject]:
        """Return all batches that have not expired, the newest first."""
        found = await asyncio.to_thread(self._unexpired)
        running = self._running
        return [
            running if running is not None and one.id == running.id else one
            for one in found
        ]

    def _unexpired(self) -> "list[BatchObject]":
        """Return the batches; remove those that ended as long ago as files are kept."""
        found, since = [], time.time() - KEPT_SECONDS
        for batch in self._records.list():
            if batch.ended and batch.ended_at <= since:
                self._records.remove(batch.id)
            else:
                found.append(batch)
        return found

    async def cancel(self, id: str) -> BatchObject:
        """Cancel a batch; what is answered stays. Raises ApiError (404, 409)."""
        async with self._choice:
            batch = await self.get(id)
            if batch.ended:
                raise ApiError(
                    409, f"the batch has ended: it is {batch.status}", "batch_ended"
                )
            batch.status = "cancelling"
            batch.cancelling_at = batch.cancelling_at or int(time.time())
            if self._answering is not None and batch is self._running:
                self._answering.cancel()  # at once, or it may set its status
            await self._save(batch)
        return batch

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            async with self._choice:
                waiting = [one for one in await self.list() if not one.ended]
                self._running = waiting[-1] if waiting else None
            if self._running is None:
                await self._wake.wait()
                continue
            try:
                await self._finish(self._running)
            except Exception:
                log.exception("a batch stopped: it goes on when the server restarts")
                await self._wake.wait()

    async def _finish(self, batch: BatchObject) -> None:
        """Answer a batch to its end, or until it is cancelled or fails."""
        try:
            if batch.status not in ("cancelling", "finalizing"):
                self._answering = asyncio.create_task(self._answer(batch))
                try:
                    await asyncio.wait([self._answering])
                    self._answering.result()
                except asyncio.CancelledError:
                    if batch.status != "cancelling":  # the server ends
                        raise
                except Exception as error:
                    await self._fail(batch, error)
                    return
                finally:  # its model is not closed, nor its files moved, before it ends
                    self._answering.cancel()
                    await asyncio.gather(self._answering, return_exceptions=True)
            await self._finalize(batch)
        finally:
            self._running = self._answering = None

    async def _answer(self, batch: BatchObject) -> None:
        folder = self._folder(batch)
        name = await asyncio.to_thread(_first_model, folder / INPUT)
        choice = self.models.resolve(name)

        def adapter_of(asked: str | None) -> str | None:
            found = self.models.resolve(asked)
            if found.model != choice.model:
                raise bad_request(
                    f"this batch is for the model `{choice.model}`: make another "
                    f"for `{found.model}`",
                    param="model",
                )
            return found.adapter

        job = BatchJob(
            source=folder / INPUT,
            output=folder / OUTPUT,
            errors=folder / ERRORS,
            model=choice.name,
            parallel=BATCH_PLACES,
            settings=self.settings,
            urls=(batch.endpoint,),
            adapter_of=adapter_of,
            refuse=self._refuse(choice.model),
        )
        batch.model = choice.name
        batch.status, batch.in_progress_at = "in_progress", int(time.time())
        await self._save(batch)
        saved = time.monotonic()

        def report(progress: BatchProgress) -> None:
            nonlocal saved
            counts = batch.request_counts
            counts.total, counts.failed = progress.total, progress.failed
            counts.completed = progress.done - progress.failed
            if time.monotonic() - saved > SAVE_SECONDS:
                self._records.save(batch)
                saved = time.monotonic()

        async with self.models.lease(choice.model) as runtime:
            await job.run(runtime, report)

    def _refuse(self, model: str) -> Refuse | None:
        """Return what asks the guards about the rows of a batch; None without guards.

        Raises ApiError for guards of another model, which may not fit beside this one.
        """
        policies = self.policies
        if policies is None or not policies.guards:
            return None
        judge = self.models.resolve(policies.model).model
        if judge != model:
            raise bad_request(
                f"batches are answered by `{judge}` only, which judges what comes in",
                param="model",
            )

        async def refuse(texts: Iterable[str]) -> str | None:
            found = await policies.refusal(self.models, texts)
            return None if found is None else found.message

        return refuse

    async def _fail(self, batch: BatchObject, error: Exception) -> None:
        known = as_api_error(error)
        code, message = known.code or "failed", known.message
        if isinstance(error, BatchError):
            code, message = "invalid_input", "the file has no requests of this form"
        batch.errors = BatchErrors(data=[BatchErrorEntry(code=code, message=message)])
        batch.status, batch.failed_at = "failed", int(time.time())
        await self._save(batch)
        await asyncio.to_thread(shutil.rmtree, self._folder(batch), ignore_errors=True)

    async def _finalize(self, batch: BatchObject) -> None:
        """Make files of the replies. What was begun before a crash is completed."""
        folder, now = self._folder(batch), int(time.time())
        cancelled = batch.status == "cancelling"
        if not cancelled:
            batch.status, batch.finalizing_at = "finalizing", now
        if (folder / OUTPUT).exists() and batch.output_file_id is None:
            batch.output_file_id = new_file_id()
        if (folder / ERRORS).exists() and batch.error_file_id is None:
            batch.error_file_id = new_file_id()
        await self._save(batch)
        expires = batch.output_expires_after
        seconds = expires.seconds if expires else KEPT_SECONDS
        for id, name in (
            (batch.output_file_id, OUTPUT),
            (batch.error_file_id, ERRORS),
        ):
            if id is not None:
                await asyncio.to_thread(
                    self.store.adopt,
                    folder / name,
                    f"{batch.id}_{name}",
                    OUTPUT_PURPOSE,
                    id=id,
                    expires_in=seconds,
                )
        if cancelled:
            batch.status, batch.cancelled_at = "cancelled", now
        else:
            batch.status, batch.completed_at = "completed", now
        await self._save(batch)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _save(self, batch: BatchObject) -> None:
        await asyncio.to_thread(self._records.save, batch)

    def _folder(self, batch: BatchObject) -> Path:
        return self.folder / batch.id

    def _keep_input(self, batch: BatchObject) -> None:
        """Keep the input of a batch, whatever becomes of the client's file."""
        folder = self._folder(batch)
        files.make_folder(folder)
        with files.storage_errors(folder / INPUT):
            os.link(self.store.path(batch.input_file_id), folder / INPUT)


def held_bytes(folder: Path) -> int:
    """Return the bytes in the folder of batches that no file of the store has.

    These are replies so far, and inputs whose file a client has deleted.
    """
    total = 0
    for path in folder.glob("*/*") if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # the batch has ended meanwhile
            status = path.stat()
            total += status.st_size if status.st_nlink == 1 else 0
    return total


def _first_model(path: Path) -> str | None:
    """Return the model that the first request names."""
    for row in open_input(path).rows():
        body = row.fields.get("body")
        if isinstance(body, dict) and isinstance(name := body.get("model"), str):
            return name
    return None
