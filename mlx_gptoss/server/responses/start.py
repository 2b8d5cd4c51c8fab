"""From a request to a live response, whose answer has just started.

question = await load_question(body, request, service)     # checked, not yet read
job = await service.start(request, body.model, partial(question.read, ...))
response = start_response(question, job, service, names)
"""

from collections.abc import Mapping, Sequence

from starlette.requests import Request

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.ignored import ignored_header
from mlx_gptoss.api.responses.live import LiveResponse, live_response
from mlx_gptoss.api.responses.request import (
    ResponsesRequestReader,
    check_supported,
    fields_without_effect,
)
from mlx_gptoss.api.responses.wire import (
    ResponsesInput,
    ResponsesRequest,
)
from mlx_gptoss.api.settings import REASONING_EVENTS, ServerSettings
from mlx_gptoss.api.wire import JsonObject
from mlx_gptoss.server.service import Job, Service

REASONING_EVENTS_HEADER = "x-mlx-gptoss-reasoning-events"


async def load_question(
    body: ResponsesInput,
    request: Request,
    service: Service,
    earlier: Sequence[JsonObject] | None = None,
) -> ResponsesRequestReader:
    """Check a request and load the conversation it continues, unless it is given."""
    size = service.body_size(request)
    await service.pools.run(size, check_supported, body, service.settings)
    registry = service.responses
    if earlier is None:
        earlier = await registry.history(body.previous_response_id)
    find = registry.store.find if registry.store else None
    return ResponsesRequestReader(body, earlier, find, service.restore)


def start_response(
    question: ResponsesRequestReader,
    job: Job,
    service: Service,
    reasoning_events: str,
) -> LiveResponse:
    """Return the response for a job whose answer has just started."""
    request = question.request
    assert isinstance(request, ResponsesRequest)
    return live_response(
        question,
        job.turn,
        job.runtime.tokenizer,
        job.model,
        stored=request.store is not False and service.responses.store is not None,
        reasoning_events=reasoning_events,
    )


def reasoning_events(headers: Mapping[str, str], settings: ServerSettings) -> str:
    """Return whose names of reasoning events a request wants, or the server's own.

    Raises ApiError (400) for a header with another value.
    """
    wanted = headers.get(REASONING_EVENTS_HEADER, settings.reasoning_events)
    if wanted not in REASONING_EVENTS:
        raise bad_request(
            f"the header `{REASONING_EVENTS_HEADER}` is "
            f"{' or '.join(REASONING_EVENTS)}",
            param=REASONING_EVENTS_HEADER,
        )
    return wanted


def ignored_headers(question: ResponsesRequestReader) -> dict[str, str]:
    """Return the header that lists ignored fields and tools."""
    others = question.tools.offered.ignored
    return ignored_header(
        fields_without_effect(question.request), others, question.ignored_items
    )
