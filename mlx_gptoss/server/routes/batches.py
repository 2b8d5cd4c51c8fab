"""`/v1/batches`: answer a file of requests in the background."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request

from mlx_gptoss.api.batches.wire import BatchCreation, BatchList, BatchObject
from mlx_gptoss.server.batches.pages import page_of
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service

router = APIRouter(tags=["batches"], responses=ERRORS, route_class=JsonBodyRoute)


@router.post("/v1/batches")
async def create_batch(body: BatchCreation, request: Request) -> BatchObject:
    """Begin to answer a file of requests, as soon as those before it have ended."""
    return await Service.of(request).require_batches().create(body)


@router.get("/v1/batches")
async def list_batches(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchList:
    """List the batches, the newest first."""
    found = await Service.of(request).require_batches().list()
    return BatchList(**page_of(found, after, limit))


@router.get("/v1/batches/{batch_id}")
async def retrieve_batch(batch_id: str, request: Request) -> BatchObject:
    """Describe a batch: its status, its counts, and the files of its replies."""
    return await Service.of(request).require_batches().get(batch_id)


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(batch_id: str, request: Request) -> BatchObject:
    """Cancel a batch. What is answered becomes its files."""
    return await Service.of(request).require_batches().cancel(batch_id)
