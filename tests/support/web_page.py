"""The chat page of an app in this process, and a browser that has signed in.

async with open_page(runtime) as page:
    made = await page.ask("Is it?")
    done = await page.finished(made["id"])
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.web.access import HEADER
from mlx_gptoss.server.web.keys import PageKeys
from mlx_gptoss.server.web.memory_store import MemoryStore
from mlx_gptoss.server.web.page import WebPage
from mlx_gptoss.server.web.routes.events import frames
from mlx_gptoss.server.web.tools import ToolOffer
from tests.support.serving import DATE

PATIENCE = 20.0  # seconds
Json = dict[str, Any]


class PageClient:
    """A browser at the page."""

    def __init__(self, page: WebPage, app: Any, http: httpx2.AsyncClient) -> None:
        self.page, self.app, self.http = page, app, http

    async def post(self, path: str, **body: Any) -> httpx2.Response:
        return await self.http.post(f"/web/{path}", json=body, headers={HEADER: "1"})

    async def ask(self, text: str, **body: Any) -> Json:
        """Begin a conversation."""
        reply = await self.post("chats", text=text, **body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def until(self, id: str, holds: Callable[[Json], Any]) -> Json:
        """Return the conversation once something holds for it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                reply = await self.http.get(f"/web/chats/{id}")
                assert reply.status_code == 200, reply.text
                if holds(reply.json()):
                    return reply.json()
                await asyncio.sleep(0.01)

    async def finished(self, id: str) -> Json:
        """Return the conversation once it is answered."""
        return await self.until(id, lambda chat: not chat["running"])

    async def decide(self, id: str, choice: str) -> None:
        """Decide about the call that waits."""
        asking = await self.until(id, lambda chat: chat["asking"])
        body = {"call": asking["asking"], "choice": choice}
        reply = await self.post(f"chats/{id}/approval", **body)
        assert reply.status_code == 200, reply.text

    async def events(self, id: str, *, count: int, after: str = "") -> list[Json]:
        """Return the first numbered events of a stream."""
        found: list[Json] = []
        stream: Any = frames(self.page, await self.page.conversations.open(id), after)
        async for text in stream:
            lines = dict(one.split(": ", 1) for one in text.decode().split("\n") if one)
            if "id" in lines:
                value = json.loads(lines["data"])
                found.append(
                    {"id": lines["id"], "name": lines["event"], "value": value}
                )
            if len(found) >= count:
                break
        await stream.aclose()
        return found

    @asynccontextmanager
    async def another_browser(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client without the cookie of this one."""
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as http:
            yield http


@asynccontextmanager
async def open_page(
    runtime: Runtime,
    settings: ServerSettings | None = None,
    *,
    store: Any = None,
    offer: ToolOffer | None = None,
    signed_in: bool = True,
    **options: Any,
) -> AsyncIterator[PageClient]:
    """The page of an app over one runtime, which stays open."""
    models = Models.of(runtime, "demo")
    page = WebPage(models, store or MemoryStore(), PageKeys(), offer=offer, **options)
    app = create_app(models, settings or ServerSettings(date=DATE), page)
    page.start(app.state.service.drain)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=PATIENCE
    ) as http:
        client = PageClient(page, app, http)
        if signed_in:
            await client.post("session", key=page.keys.make_key())
        try:
            yield client
        finally:
            await page.close()
