"""The ASGI app: routes, middleware, and the form of error responses.

    app = create_app(Models.of(load("demo"), "demo"), ServerSettings(api_key="..."))

Runs under any ASGI server; process.py runs it under uvicorn.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_gptoss.api.errors import (
    ApiError,
    as_api_error,
    error_body,
    validation_error,
)
from mlx_gptoss.api.ignored import IGNORED_HEADER as IGNORED
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.server.batches.files import FileStore
from mlx_gptoss.server.batches.worker import BatchWorker, held_bytes
from mlx_gptoss.server.body_errors import unreadable_body
from mlx_gptoss.server.content_encoding import UndecodableBodyError
from mlx_gptoss.server.guard import Guard
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.policies import ServedPolicies
from mlx_gptoss.server.redactor import ServedRedactor
from mlx_gptoss.server.responses.registry import ResponseRegistry
from mlx_gptoss.server.responses.store import open_store
from mlx_gptoss.server.routes import (
    batches,
    chat,
    compaction,
    completions,
    docs,
    files,
    lmstudio,
    lmstudio_chat,
    messages,
    metrics,
    models,
    moderations,
    ollama,
    ollama_models,
    redact,
    responses,
    responses_socket,
    tokens,
)
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.stream import CLIENT_CLOSED_REQUEST, ClientDisconnected
from mlx_gptoss.server.web.page import WebPage
from mlx_gptoss.server.web.routes import PAGE_ROUTERS

ROUTERS = (
    chat.router,
    completions.router,
    responses.router,
    compaction.router,
    messages.router,
    files.router,
    batches.router,
    moderations.router,
    redact.router,
    tokens.router,
    models.router,
    lmstudio.router,
    lmstudio_chat.router,
    metrics.router,
    docs.router,
)
OLLAMA_ROUTERS = (ollama.router, ollama_models.router)
# FastAPI would otherwise report requests, with bodies, to any collector configured.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
API_VERSION = "1"  # in /openapi.json, which is public: not the package version
ID_PREFIX = "resp_"  # of response ids
CODES = {
    400: "invalid_body",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
}


def create_app(
    models: Models,
    settings: ServerSettings | None = None,
    page: WebPage | None = None,
    *,
    redactor: ServedRedactor | None = None,
    policies: ServedPolicies | None = None,
) -> FastAPI:
    """Create the app. It closes `models`, the page and the redactor at shutdown.

    `policies` judge texts for `/v1/moderations`, and guard what comes in.
    """
    settings = settings or ServerSettings()
    service = Service(
        models,
        settings,
        ResponseRegistry(open_store(settings)),
        batches=open_batches(models, settings, policies),
        redactor=redactor,
        policies=policies,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(models.unload_idle())
        if page is not None:
            page.policies = policies
            page.start(service.drain)
        if service.batches is not None:
            service.batches.start()
        try:
            yield
        finally:
            if page is not None:
                await page.close()
            if service.batches is not None:
                await service.batches.close()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await models.close()
            if redactor is not None:
                redactor.close()
            service.pools.close()
            service.responses.close()

    app = FastAPI(
        telemetry=NO_TELEMETRY,
        title="mlx-gptoss",
        version=API_VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # served by routes/docs.py
        dependencies=[Depends(HTTPBearer(auto_error=False))]
        if settings.api_key
        else [],
    )
    app.state.service, app.state.page = service, page
    others = OLLAMA_ROUTERS if settings.ollama else ()
    for router in (*ROUTERS, *others, *PAGE_ROUTERS):
        app.include_router(router)
    app.router.routes.append(responses_socket.route)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    if service.settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=[IGNORED],
        )
    app.add_middleware(  # outermost
        Guard,
        settings=service.settings,
        on_request=service.record_request,
        drain=service.drain,
        body_budget=service.body_budget,
        has_page=page is not None,
    )
    return app


def open_batches(
    models: Models, settings: ServerSettings, policies: ServedPolicies | None = None
) -> BatchWorker | None:
    """Open the files and batches of a server's store; None if it has none."""
    if settings.store is None:
        return None
    folder = settings.store / "batches"
    store = FileStore(settings.store / "files", held=partial(held_bytes, folder))
    return BatchWorker(folder, models, store, settings, policies)


def error_reply(request: Request, error: BaseException) -> Response:
    """Return an error response in the form of the API that the path belongs to."""
    known = as_api_error(error)
    return JSONResponse(
        error_body(request.url.path, known), known.status, headers=dict(known.headers)
    )


async def on_error(request: Request, error: Exception) -> Response:
    return error_reply(request, error)


async def on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_reply(request, validation_error(error.errors()))


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, message, headers = error.status_code, str(error.detail), error.headers
    if status == 405 and not may_exist(request):
        status, headers = 404, None
    if status == 400 and not isinstance(error, UndecodableBodyError):
        message = unreadable_body()
    elif status == 404:
        message = "this server has no such route: see /docs"
    elif status == 405:
        message = "this route does not take that method: see /docs"
    known = ApiError(status, message, CODES.get(status), headers=headers or {})
    return error_reply(request, known)


def may_exist(request: Request) -> bool:
    """Whether the path can exist: `/v1/responses/compact` is not a response id."""
    return request.path_params.get("response_id", ID_PREFIX).startswith(ID_PREFIX)


async def on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


HANDLERS: dict[Any, Any] = {
    ApiError: on_error,
    GptOssError: on_error,
    RequestValidationError: on_invalid,
    HTTPException: on_http_error,
    ClientDisconnected: on_disconnect,
    Exception: on_error,
}
