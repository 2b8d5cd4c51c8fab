"""One file per API. A route parses a request, starts its turns, and sends a reply."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.wire import ErrorReply

# For the OpenAPI document: all routes share one form of errors.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is invalid"},
    "5XX": {"model": ErrorReply, "description": "The server failed"},
}


def refuse_by_name(router: APIRouter, reasons: Mapping[tuple[str, str], str]) -> None:
    """Add routes that say why they are not served; `reasons` by path and method."""
    for (path, method), reason in reasons.items():
        router.add_api_route(
            path, refusing(reason), methods=[method], include_in_schema=False
        )


def refusing(reason: str) -> Any:
    async def refused() -> None:
        raise ApiError(501, reason, "not_supported")

    return refused
