"""ASGI middleware that rejects requests by host, origin, key or size.

Any web page can make a browser send requests to this machine. Therefore the Host header
must be one of our names (after DNS rebinding to 127.0.0.1 it is another one), and
requests from pages of other origins are refused unless that origin is listed. If there
is an API key, requests need it, except for the documentation, which reveals nothing
about this server, `/health`, which gives details only with the key, and the chat page,
which has sessions of its own. Compressed
bodies are decoded within the body limit. Knows HTTP headers and bytes; nothing of
routes.
"""

import asyncio
import hmac
import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_gptoss.api.errors import ApiError, draining, error_body
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.server.body_budget import BodyBudget
from mlx_gptoss.server.content_encoding import (
    ACCEPTED,
    DecodedBody,
    can_decode,
    content_codings,
)
from mlx_gptoss.server.drain import Drain
from mlx_gptoss.server.limited_body import LimitedBody, body_too_large, too_large

PUBLIC_PATHS = ("/health", "/docs", "/openapi.json")  # and paths under them
CHAT_PAGE = ("/", "/web")  # with sessions of its own; for no other origin
AUTHORIZED = "knows_key"  # in the request state: the key was right, or none is set
PAGES = ("/docs", "/")
SAME_ORIGIN = (
    "same-origin",
    "none",
)  # of Sec-Fetch-Site: our pages, and typed URLs
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SOCKET = "WEBSOCKET"  # as a method, in logs and metrics
UNKNOWN = "other"  # a method or route that is not served
Headers = Mapping[str, str]


class Guard:
    """Pass valid requests on to `app`; answer all others with an error.

    `on_request(method, route, status, seconds)` is called at the end of each request
    with the pattern of the route, never the path that the client sent. Requests that
    are cancelled by `drain` get an error if their response has not started. With
    `has_page` there is a chat page, which needs no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        on_request: Callable[..., None],
        drain: Drain | None = None,
        *,
        body_budget: BodyBudget | None = None,
        has_page: bool = False,
    ) -> None:
        self._app = app
        self._on_request = on_request
        self._settings = settings
        self._limits = settings.limits
        self._drain = drain or Drain()
        self._public = (*PUBLIC_PATHS, *(CHAT_PAGE if has_page else ()))
        self._body_budget = body_budget or BodyBudget(self._limits.all_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._forward_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        secured, started = _SecuredSend(send), time.monotonic()
        try:
            await self._forward(scope, receive, secured)
        except asyncio.CancelledError:
            if not self._drain.aborted:
                raise
            if not secured.status:
                await _refuse(scope["path"], draining(), secured)
        finally:
            method = scope["method"] if scope["method"] in METHODS else UNKNOWN
            route = getattr(scope.get("route"), "path", UNKNOWN)
            seconds = time.monotonic() - started
            self._on_request(method, route, secured.status, seconds)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = decode_headers(scope)
        error = self.refusal(scope["method"], scope["path"], headers)
        scope.setdefault("state", {})[AUTHORIZED] = self._is_authorized(headers)
        codings, limit = content_codings(scope["headers"]), self._limits.body_bytes
        if error is None and not can_decode(codings):
            error = unsupported_encoding()
        if error is not None:
            await _refuse(scope["path"], error, send)
            return
        body: Receive = LimitedBody(receive, limit, self._limits.body_seconds)
        if codings:
            body = DecodedBody(body, codings, limit, lambda: body_too_large(limit))
        share = self._body_budget.charge(body)
        try:
            await self._app(scope, share, send)
        finally:
            share.release()

    async def _forward_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a WebSocket on, or refuse it like a GET of its path.

        Its route limits, counts and logs what is asked over it.
        """
        headers = decode_headers(scope)
        error = self.refusal("GET", scope["path"], headers)
        if error is None and not self._is_authorized(headers):
            error = invalid_key()
        if error is not None:
            self._on_request(SOCKET, UNKNOWN, error.status, 0.0)
            await _refuse(scope["path"], error, send, "websocket.http")
            return
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._drain.aborted:
                raise

    def refusal(self, method: str, path: str, headers: Headers) -> ApiError | None:
        """Return the error for a request that must not pass, None if it may."""
        if not self._is_allowed_host(headers.get("host", "")):
            return ApiError(
                403,
                "this Host is not served: use localhost, or --allow-host",
                "host_not_allowed",
            )
        if not self._is_allowed_origin(method, path, headers):
            return ApiError(
                403,
                "pages of this origin may not send requests: allow it with "
                "--cors-origin",
                "origin_not_allowed",
            )
        preflight = method == "OPTIONS" and "access-control-request-method" in headers
        open_to_all = preflight or is_under(path, self._public)
        if not open_to_all and not self._is_authorized(headers):
            return invalid_key()
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._limits.body_bytes:
            return too_large(self._limits.body_bytes)
        return None

    def _is_allowed_host(self, host: str) -> bool:
        hosts, name = self._settings.hosts, host_name(host)
        if hosts is None or name in hosts:
            return True
        return self._settings.any_address and is_ip_address(name)

    def _is_allowed_origin(self, method: str, path: str, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            host = headers.get("host")
            own = (f"http://{host}", f"https://{host}")
            others = () if is_under(path, CHAT_PAGE) else self._settings.origins
            return origin in own or origin in others
        if headers.get("sec-fetch-site", "none") in SAME_ORIGIN:
            return True
        # Any page may link to ours: following a link only reads them.
        followed = headers.get("sec-fetch-mode") == "navigate" and method == "GET"
        return followed and is_under(path, PAGES)

    def _is_authorized(self, headers: Headers) -> bool:
        """Whether the request has the API key, or none is set."""
        key = self._settings.api_key
        if key is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else ""
        candidates = (given, headers.get("x-api-key", ""))
        return any(
            hmac.compare_digest(one.encode(), key.encode()) for one in candidates
        )


def decode_headers(scope: Scope) -> dict[str, str]:
    """Return headers by lower-case name; of repeated ones, the last."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in scope["headers"]
    }


def host_name(host: str) -> str:
    """Return the name in a Host header without its port: `localhost`, `[::1]`."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def is_ip_address(name: str) -> bool:
    """Whether a host is an IP address, which DNS rebinding cannot forge."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in prefixes)


def invalid_key() -> ApiError:
    return ApiError(
        401,
        "the API key is missing or wrong: send `Authorization: Bearer KEY`",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def unsupported_encoding() -> ApiError:
    return ApiError(
        415,
        f"the body's `Content-Encoding` is not supported: send {ACCEPTED}, or "
        "plain JSON",
        "unsupported_encoding",
        headers={"Accept-Encoding": ACCEPTED, "Connection": "close"},
    )


class _SecuredSend:
    """Send a response with security headers for browsers added."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0  # not sent yet

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = list(message.get("headers", ()))
            known = {name for name, _ in own}
            added = [one for one in SECURITY_HEADERS if one[0] not in known]
            message["headers"] = [*own, *added]
        await self._send(message)


async def _refuse(
    path: str, error: ApiError, send: Send, protocol: str = "http"
) -> None:
    body = json.dumps(error_body(path, error)).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers,
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    status = HTTPStatus(error.status)
    start = f"{protocol}.response.start"
    await send({"type": start, "status": status, "headers": raw})
    await send({"type": f"{protocol}.response.body", "body": body})
