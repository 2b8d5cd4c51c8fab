"""`/docs`: Swagger UI for this API, served without any external resource."""

import asyncio
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_gptoss.api.errors import ApiError

router = APIRouter(include_in_schema=False)
# From the package `fastapi-offline`. Its own page would need inline scripts.
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mlx-gptoss</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="routes"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#routes",
  deepLinking: true,
  validatorUrl: null,
});
"""


@router.get("/docs")
async def docs() -> Response:
    return Response(PAGE, media_type="text/html")


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document. Generating it takes a second, so use a thread."""
    return JSONResponse(await asyncio.to_thread(request.app.openapi))


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    if name not in ASSETS:
        raise ApiError(404, "this server has no such page: see /docs", "not_found")
    return Response(read_asset(name), media_type=ASSETS[name])


@cache
def read_asset(name: str) -> bytes:
    return files("fastapi_offline").joinpath("static", name).read_bytes()
