"""`/` and what it loads: files built from page/, which hold nothing of this machine.

Everything comes from this server, no script or style stands in the page, and text can
never become HTML: browsers that know trusted types refuse it.
"""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.server.web.access import page_of

router = APIRouter(include_in_schema=False)
INDEX = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; font-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",
}


@router.get("/")
async def index(request: Request) -> Response:
    page_of(request)
    return Response(read_asset(INDEX), media_type=TYPES["html"], headers=PAGE_HEADERS)


@router.get("/web/assets/{name}")
async def asset(name: str, request: Request) -> Response:
    page_of(request)
    kind = TYPES.get(name.rpartition(".")[2])
    if kind is None or name not in asset_names():
        raise ApiError(404, "this page has no such file", "not_found")
    return Response(read_asset(name), media_type=kind, headers=PAGE_HEADERS)


@cache
def asset_names() -> frozenset[str]:
    """Return the names of the built files."""
    folder = files("mlx_gptoss.server.web").joinpath("assets")
    return frozenset(one.name for one in folder.iterdir() if one.is_file())


@cache
def read_asset(name: str) -> bytes:
    return files("mlx_gptoss.server.web").joinpath("assets", name).read_bytes()
