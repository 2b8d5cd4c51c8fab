"""`/web/chats`: list, search, read, change, export and delete conversations."""

import re
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.web.access import page_of, session_of
from mlx_gptoss.server.web.chat_settings import ChangedChat
from mlx_gptoss.server.web.conversation import OpenConversation
from mlx_gptoss.server.web.page import WebPage

router = APIRouter(include_in_schema=False, route_class=JsonBodyRoute)
NOT_IN_NAMES = re.compile(r"[^\w.-]+")
NAME_CHARACTERS = 60
TYPES = {"markdown": "text/markdown", "json": "application/json"}
ENDINGS = {"markdown": "md", "json": "json"}


@router.get("/web/chats")
async def list_chats(request: Request, search: str = "") -> JSONResponse:
    """List the conversations, or those that contain all words of `search`."""
    session_of(request)
    return reply(await page_of(request).conversations.summaries(search))


@router.get("/web/chats/{id}")
async def read_chat(id: str, request: Request) -> JSONResponse:
    """Return a conversation as a whole."""
    session_of(request)
    page = page_of(request)
    return reply(state_of(page, await page.conversations.open(id)))


@router.patch("/web/chats/{id}")
async def change_chat(id: str, body: ChangedChat, request: Request) -> JSONResponse:
    """Give a conversation another title or other settings."""
    session_of(request)
    page = page_of(request)
    changed = await page.conversations.change(
        id, title=body.title, settings=body.settings
    )
    return reply(state_of(page, changed))


@router.delete("/web/chats/{id}")
async def delete_chat(id: str, request: Request) -> JSONResponse:
    """Delete a conversation and its other versions."""
    session_of(request)
    return reply({"deleted": await page_of(request).conversations.delete(id)})


@router.get("/web/chats/{id}/export")
async def export_chat(
    id: str, request: Request, form: Literal["markdown", "json"] = "markdown"
) -> Response:
    """Send a conversation as a file."""
    session_of(request)
    page = page_of(request)
    found = await page.conversations.open(id)
    text = await page.conversations.export(found, as_json=form == "json")
    name = NOT_IN_NAMES.sub("-", found.title)[:NAME_CHARACTERS].strip("-.") or "chat"
    plain = name.encode("ascii", "ignore").decode() or "chat"
    return Response(
        text,
        media_type=TYPES[form],
        headers={
            "content-disposition": f'attachment; filename="{plain}.{ENDINGS[form]}"',
            "cache-control": "no-store",
        },
    )


def state_of(page: WebPage, found: OpenConversation) -> dict[str, Any]:
    """Return a conversation for a tab."""
    return found.state(page.conversations.settings_of(found))


def reply(value: Any) -> JSONResponse:
    """Return JSON that a browser does not keep on disk."""
    return JSONResponse(value, headers={"cache-control": "no-store"})
