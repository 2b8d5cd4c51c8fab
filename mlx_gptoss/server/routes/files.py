"""`/v1/files`: upload, list, read and delete files of requests and replies."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.files.wire import DeletedFile, FileList, FileObject
from mlx_gptoss.server.batches.files import KEPT_SECONDS
from mlx_gptoss.server.batches.pages import page_of
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service

router = APIRouter(tags=["files"], responses=ERRORS)
PURPOSES = ("batch",)
CHUNK = 2**20
FIELDS = {"expires_after[seconds]", "expires_after[anchor]", "file", "purpose"}


@router.post("/v1/files")
async def upload_file(request: Request) -> FileObject:
    """Store a file of requests, sent as a form with `file` and `purpose`."""
    store = Service.of(request).require_batches().store
    async with request.form(max_files=1, max_fields=len(FIELDS)) as form:
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise bad_request("there is no `file`: send a form with it", param="file")
        if not isinstance(purpose, str) or purpose not in PURPOSES:
            raise bad_request(
                "the `purpose` must be `batch`: files serve nothing else here",
                param="purpose",
            )
        seconds = read_expiry(form.get("expires_after[seconds]"))
        chunks = iter(lambda: file.file.read(CHUNK), b"")
        return await run_in_threadpool(
            store.add, file.filename or "", purpose, chunks, expires_in=seconds
        )


@router.get("/v1/files")
async def list_files(
    request: Request,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> FileList:
    """List the files that have not expired, the newest first."""
    store = Service.of(request).require_batches().store
    found = await run_in_threadpool(store.list, purpose)
    page = page_of(found if order == "desc" else found[::-1], after, limit)
    return FileList(**page)


@router.get("/v1/files/{file_id}")
async def retrieve_file(file_id: str, request: Request) -> FileObject:
    """Describe a file."""
    store = Service.of(request).require_batches().store
    return await run_in_threadpool(store.get, file_id)


@router.get("/v1/files/{file_id}/content", response_class=FileResponse)
async def read_file(file_id: str, request: Request) -> FileResponse:
    """Return the bytes of a file."""
    store = Service.of(request).require_batches().store
    found = await run_in_threadpool(store.get, file_id)
    return FileResponse(store.path(found.id), media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, request: Request) -> DeletedFile:
    """Delete a file. A batch that was made of it goes on."""
    store = Service.of(request).require_batches().store
    await run_in_threadpool(store.remove, file_id)
    return DeletedFile(id=file_id)


def read_expiry(given: object) -> int:
    """Return the seconds that a file is kept. Raises ApiError (400)."""
    if given is None:
        return KEPT_SECONDS
    if not isinstance(given, str) or not given.isdigit():
        raise bad_request("`expires_after[seconds]` is no number of seconds")
    if not 3600 <= int(given) <= KEPT_SECONDS:
        raise bad_request(
            f"`expires_after[seconds]` is {given}: give 3600 to {KEPT_SECONDS}",
            param="expires_after",
        )
    return int(given)
