"""`/web/page`: what the page offers; `/web/models`: serve and download models."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from mlx_gptoss import __version__
from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.server.web.access import page_of, session_of
from mlx_gptoss.server.web.chat_settings import ChosenModel
from mlx_gptoss.server.web.downloads import ModelLibrary
from mlx_gptoss.server.web.page import WebPage
from mlx_gptoss.server.web.routes.chats import reply

router = APIRouter(include_in_schema=False)


@router.get("/web/page")
async def describe_page(request: Request) -> JSONResponse:
    """Return what a tab needs at its start."""
    session_of(request)
    page = page_of(request)
    await page.models.refresh_adapters()
    return reply(
        {
            "version": __version__,
            "private": page.private,
            "defaults": page.defaults.model_dump(),
            "tools": page.offer.names,
            "models": served(page),
        }
    )


@router.get("/web/models")
async def list_models(request: Request) -> JSONResponse:
    """Return the models served, those on this machine, and those that could be."""
    session_of(request)
    page = page_of(request)
    await page.models.refresh_adapters()
    rows: dict[str, Any] = {"served": served(page), "local": [], "published": []}
    if page.library is not None:
        rows["local"] = await asyncio.to_thread(page.library.local)
        rows["published"] = await asyncio.to_thread(page.library.published)
    return reply(rows)


@router.post("/web/models")
async def choose_model(body: ChosenModel, request: Request) -> JSONResponse:
    """Serve a model of this machine, or start to download one."""
    session_of(request)
    page = page_of(request)
    library = library_of(page)
    if body.action == "download":
        library.start(body.model)
    elif body.model not in page.models.names:
        if not await asyncio.to_thread(library.is_here, body.model):
            raise ApiError(404, f"`{body.model}` is not here", "model_not_found")
        page.models.add(library.make_source(body.model))
    return reply({"served": served(page)})


@router.delete("/web/models")
async def stop_download(request: Request) -> JSONResponse:
    """Stop the download; what has arrived stays."""
    session_of(request)
    await asyncio.to_thread(library_of(page_of(request)).stop)
    return reply({})


def library_of(page: WebPage) -> ModelLibrary:
    if page.library is None:
        raise ApiError(404, "this server serves the models it was given", "no_library")
    return page.library


def served(page: WebPage) -> list[dict[str, Any]]:
    """Return the models that a conversation may choose, with their adapters."""
    return [
        {
            "name": choice.name,
            "model": choice.model,
            "adapter": choice.adapter,
            "loaded": page.models.runtime(choice.model) is not None,
        }
        for choice in page.models.choices
    ]
