"""One file per API. A route parses a request, starts its turns, and sends a reply."""

from typing import Any

from mlx_gptoss.api.wire import ErrorReply

# For the OpenAPI document: all routes share one form of errors.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is invalid"},
    "5XX": {"model": ErrorReply, "description": "The server failed"},
}
