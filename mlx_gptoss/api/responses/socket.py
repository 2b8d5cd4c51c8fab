"""Messages of the WebSocket of `/v1/responses`, beside the events of a stream.

A message of a client is a request with the `type` response.create. With `generate`
false nothing is answered: the prompt is only prepared, for a request that continues it.
"""

from typing import Literal

from pydantic import Field

from mlx_gptoss.api.errors import INVALID_REQUEST, ApiError
from mlx_gptoss.api.ignored import IGNORED_HEADER
from mlx_gptoss.api.responses.wire import ResponsesRequest
from mlx_gptoss.api.wire import StreamEvent

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
NO_SUCH_RESPONSE = "previous_response_not_found"


class CreateMessage(ResponsesRequest):
    """A request that came as a message; it is streamed, whatever it says."""

    type: Literal["response.create"]
    generate: bool | None = None
    stream: bool | None = Field(default=True)


def error_event(error: ApiError) -> StreamEvent:
    """Return the message for a request that failed before its response began.

    Its `code` is a text in any case, as Open Responses has it.
    """
    body = error.body["error"]
    body["code"] = error.code or INVALID_REQUEST
    return {"type": "error", "status": error.status, "error": body}


def previous_not_found() -> ApiError:
    return ApiError(
        400,
        "the previous response is neither the latest of this connection nor stored: "
        "send the whole conversation without `previous_response_id`",
        NO_SUCH_RESPONSE,
        "previous_response_id",
    )


def connection_too_old(seconds: float) -> ApiError:
    return ApiError(
        400,
        f"this connection has lasted {seconds / 60:.0f} minutes: open another one",
        "websocket_connection_limit_reached",
    )


def name_ignored(event: StreamEvent, headers: dict[str, str]) -> StreamEvent:
    """Name in the first event what the header names of a reply over HTTP."""
    ignored = headers.get(IGNORED_HEADER)
    return event | {IGNORED_HEADER: ignored} if ignored else event
