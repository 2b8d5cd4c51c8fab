"""`/web/events`: one stream for a tab, of the conversation it shows and of the figures.

    chat      the conversation as a whole: first, and when an answer begins or ends
    delta     text for a part of the last turn
    item      a part of the last turn, as it is now
    gone      the conversation was deleted
    status    the figures of the moment
    list      the list of conversations has changed

`chat`, `delta` and `item` are numbered. A tab that comes back with the number it has
(`Last-Event-ID`, or `after`) gets what it missed, or, if that is gone or the server was
started again, the conversation as a whole.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.stream import EventStream, sse_json
from mlx_gptoss.server.web.access import page_of, session_of
from mlx_gptoss.server.web.conversation import OpenConversation
from mlx_gptoss.server.web.event_log import merge_deltas
from mlx_gptoss.server.web.page import WebPage
from mlx_gptoss.server.web.routes.chats import state_of
from mlx_gptoss.server.web.status import page_status

router = APIRouter(include_in_schema=False)
BEAT_SECONDS = 10.0  # the longest silence: a tab takes more for a dead connection
TOGETHER_SECONDS = 0.03  # tokens that arrive within it are sent at once


@router.get("/web/events")
async def events(request: Request, chat: str = "", after: str = "") -> Response:
    """Stream what happens, for one tab."""
    session = session_of(request)
    page = page_of(request)
    found = await page.conversations.open(chat) if chat else None
    after = request.headers.get("last-event-id", after)
    limits = Service.of(request).settings.limits

    async def close() -> None:
        """Nothing is held for a tab."""

    return EventStream(
        frames(page, found, after, session),
        close=close,
        heartbeat_seconds=limits.heartbeat_seconds,
    )


async def frames(
    page: WebPage, found: OpenConversation | None, after: str, session: str = ""
) -> AsyncIterator[bytes]:
    """Yield the events of a tab until the server or its session ends."""
    place = known_number(page, after)
    status, listed, said = None, -1, monotonic()
    measuring = None if found is None else asyncio.create_task(measure(page, found))
    try:
        while not (page.drain.started and not page.conversations.answering):
            if page.keys.has_ended(session):
                return
            if found is not None:
                missed = found.log.since(place) if place is not None else None
                if place is None or missed is None:
                    place = found.log.last
                    yield frame(page, place, "chat", state_of(page, found))
                else:
                    for event in merge_deltas(missed):
                        place = event.number  # more may come while this is sent
                        yield frame(page, event.number, event.name, event.value)
                if found.deleted:
                    yield sse_json({"id": found.id}, "gone")
                    return
            if listed != page.list_version:
                listed = page.list_version
                yield sse_json({"version": listed}, "list")
            now = page_status(page, found)
            if now != status or monotonic() - said > BEAT_SECONDS:
                status, said = now, monotonic()
                yield sse_json(now, "status")
            if found is None:
                await asyncio.sleep(page.tick)
            else:
                await found.log.wait(place or 0, page.tick)
                await asyncio.sleep(TOGETHER_SECONDS)
    finally:
        if measuring is not None:
            measuring.cancel()


async def measure(page: WebPage, found: OpenConversation) -> None:
    """Count the tokens of a conversation; a figure less if that is not possible."""
    with suppress(GptOssError, ApiError):
        await page.conversations.measure(found)


def known_number(page: WebPage, after: str) -> int | None:
    """Return the number a tab has; None if it has none of this server."""
    epoch, _, number = after.partition("-")
    return int(number) if epoch == page.epoch and number.isdigit() else None


def frame(page: WebPage, number: int, name: str, value: object) -> bytes:
    """Encode a numbered event."""
    return f"id: {page.epoch}-{number}\n".encode() + sse_json(value, name)
