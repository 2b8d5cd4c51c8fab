"""Requests that belong to the page: with its cookie, and from its own origin.

The cookie is HttpOnly and SameSite=Strict, and named after the port: browsers keep
cookies by host. Changes also need a header that no form and no other page can send
without asking first. Knows HTTP; nothing of conversations.
"""

from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.server.web.keys import SESSION_SECONDS
from mlx_gptoss.server.web.page import WebPage

COOKIE = "mlx-gptoss-page"
COOKIE_PATH = "/web"
HEADER = "x-mlx-gptoss-page"
READS = ("GET", "HEAD")
NOT_SIGNED_IN = (
    "this browser does not know this server yet: open the link that `mlx-gptoss serve` "
    "printed, or start `mlx-gptoss serve --open`"
)


def page_of(request: Request) -> WebPage:
    """Return the page of an app. Raises ApiError (404) if it has none."""
    page = request.app.state.page
    if page is None:
        raise ApiError(404, "this server has no page: see /docs", "not_found")
    return page


def session_of(request: Request) -> str:
    """Return the session of a request. Raises ApiError (401, 403)."""
    session = page_of(request).keys.session_of(
        request.cookies.get(cookie_name(request))
    )
    if session is None:
        raise ApiError(401, NOT_SIGNED_IN, "not_signed_in")
    require_own_page(request)
    return session


def require_own_page(request: Request) -> None:
    """Raise ApiError (403) for a change that was not sent by the page itself."""
    if request.method not in READS and HEADER not in request.headers:
        raise ApiError(403, f"only the page may do this: send `{HEADER}`", "page_only")


def cookie_name(request: Request) -> str:
    """Return the name of the cookie: browsers share cookies between ports."""
    return f"{COOKIE}-{request.url.port or 80}"


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Give the browser its session."""
    response.set_cookie(
        cookie_name(request),
        value,
        max_age=SESSION_SECONDS,
        path=COOKIE_PATH,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def delete_cookie(request: Request, response: Response) -> None:
    """Take the session from the browser."""
    response.delete_cookie(
        cookie_name(request), path=COOKIE_PATH, httponly=True, samesite="strict"
    )
