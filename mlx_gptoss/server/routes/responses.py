"""`/v1/responses`: create, retrieve, cancel and delete responses; list their input."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.responses.item_fields import listed_item
from mlx_gptoss.api.responses.live import LiveResponse
from mlx_gptoss.api.responses.wire import (
    DeletedResponse,
    InputTokens,
    ItemList,
    ResponseReply,
    ResponsesInput,
    ResponsesRequest,
)
from mlx_gptoss.api.wire import JsonObject, RenderedPrompt
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.responses.compacting import compact_if_due
from mlx_gptoss.server.responses.registry import ResponseRegistry
from mlx_gptoss.server.responses.start import (
    ignored_headers,
    load_question,
    reasoning_events,
    start_response,
)
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.routes.chat import count_prompt_tokens, render_reply
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.stream import DONE, sse_json

router = APIRouter(tags=["responses"], responses=ERRORS, route_class=JsonBodyRoute)
MAX_ITEMS = 100  # per page


@router.post("/v1/responses", response_model=ResponseReply)
async def create_response(body: ResponsesRequest, request: Request) -> Response:
    """Answer a list of input items, whole or as a stream of events."""
    service = Service.of(request)
    names = reasoning_events(request.headers, service.settings)
    question = await load_question(body, request, service)
    await compact_if_due(question, request, service)
    make = partial(question.read, settings=service.settings)
    job = await service.start(request, body.model, make)
    response = service.responses.add(start_response(question, job, service, names))
    job.on_close(partial(service.responses.remove, response))
    headers = ignored_headers(question)
    if body.stream:
        return service.stream(job, frames(service.responses, response), headers)
    return await service.reply(
        request, job, service.responses.run_to_end(response), headers
    )


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(body: ResponsesInput, request: Request) -> InputTokens:
    """Count the prompt tokens of a request."""
    service = Service.of(request)
    question = await load_question(body, request, service)
    make = partial(question.read, settings=service.settings)
    _, tokens = await service.inspect(request, body.model, make, count_prompt_tokens)
    return InputTokens(input_tokens=tokens)


@router.post("/v1/responses/render", response_model=RenderedPrompt)
async def render_response(body: ResponsesRequest, request: Request) -> Response:
    """Return the exact prompt that a request renders to."""
    service = Service.of(request)
    question = await load_question(body, request, service)
    make = partial(question.read, settings=service.settings)
    _, reply = await service.inspect(request, body.model, make, render_reply)
    return json_reply(reply, ignored_headers(question))


@router.get("/v1/responses/{response_id}", response_model=ResponseReply)
async def retrieve_response(
    response_id: str, request: Request, stream: bool = False
) -> JsonObject:
    """Return a response, stored or in progress."""
    if stream:
        raise bad_request("a stream cannot be resumed", param="stream")
    return await Service.of(request).responses.snapshot(response_id)


@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, request: Request) -> DeletedResponse:
    """Delete a response; one in progress is cancelled."""
    await Service.of(request).responses.delete(response_id)
    return DeletedResponse(id=response_id)


@router.post("/v1/responses/{response_id}/cancel", response_model=ResponseReply)
async def cancel_response(response_id: str, request: Request) -> JsonObject:
    """Cancel a response in progress and return it as far as it got."""
    return await Service.of(request).responses.cancel(response_id)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    response_id: str,
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> ItemList:
    """List the input items of a response, including those of earlier responses."""
    items = await Service.of(request).responses.input_items(response_id)
    if order == "desc":
        items = items[::-1]
    ids = [item.get("id") for item in items]
    if after is not None and after not in ids:
        raise bad_request("`after` is not an item of this response", param="after")
    start = ids.index(after) + 1 if after is not None else 0
    page = [listed_item(item) for item in items[start : start + limit]]
    more = len(items) > start + limit
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return ItemList(data=page, first_id=first, last_id=last, has_more=more)


async def frames(
    registry: ResponseRegistry, response: LiveResponse
) -> AsyncIterator[bytes]:
    async for event in registry.events(response):
        yield sse_json(event, event["type"])
    yield DONE
