"""`/web/session`: exchange the key of a link for a cookie; `/web/keys`: more links."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.server.web.access import (
    delete_cookie,
    page_of,
    require_own_page,
    session_of,
    set_cookie,
)
from mlx_gptoss.server.web.chat_settings import SentKey

router = APIRouter(include_in_schema=False)
WRONG_KEY = (
    "this link was used before, or is of a server that ended: start `mlx-gptoss serve "
    "--open` for a new one"
)


@router.post("/web/session")
async def sign_in(body: SentKey, request: Request) -> Response:
    """Sign a browser in by the key of its link."""
    require_own_page(request)
    cookie = page_of(request).keys.sign_in(body.key)
    if cookie is None:
        raise ApiError(401, WRONG_KEY, "wrong_key")
    reply = Response(status_code=204)
    set_cookie(request, reply, cookie)
    return reply


@router.delete("/web/session")
async def sign_out(request: Request) -> Response:
    """End the session of this browser."""
    page_of(request).keys.sign_out(session_of(request))
    reply = Response(status_code=204)
    delete_cookie(request, reply)
    return reply


@router.post("/web/keys")
async def make_key(request: Request) -> JSONResponse:
    """Make a key for the link of another browser: it is good once."""
    session_of(request)
    key: dict[str, Any] = {"key": page_of(request).keys.make_key()}
    return JSONResponse(key, headers={"cache-control": "no-store"})
