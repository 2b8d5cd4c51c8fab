"""One file an API: a route reads a request, starts a turn, and gives a reply."""

from typing import Any

from mlx_gptoss.api.wire import ErrorReply

# What a document of the API says of every route: errors have one form.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is at fault"},
    "5XX": {"model": ErrorReply, "description": "The server is at fault"},
}
