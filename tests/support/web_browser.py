"""A real Chromium at the chat page of a server in this process.

    with page_server(runtime, offer=offer) as served, browser() as chromium:
        tab = chromium.open(served)
        tab.page.fill("#question", "Is it?")

Chromium is Debian's or the one that MLX_GPTOSS_CHROMIUM names; without one, or without
`playwright`, tests are skipped.
"""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.web.keys import PageKeys
from mlx_gptoss.server.web.memory_store import MemoryStore
from mlx_gptoss.server.web.page import WebPage
from mlx_gptoss.server.web.tools import ToolOffer

VARIABLE = "MLX_GPTOSS_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-sandbox",
)
PATIENCE = 40.0  # seconds
LOOPBACK = ("127.0.0.1", "localhost")


def find_chromium() -> str:
    """Return the program, or skip the test."""
    pytest.importorskip("playwright", reason="pip install playwright")
    named = os.environ.get(VARIABLE)
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium: apt-get install chromium, or set {VARIABLE}")
    return found


@dataclass
class PageServer:
    """A server of the page: its URL, and what is behind it."""

    url: str
    page: WebPage

    def link(self) -> str:
        """Return a link that signs a browser in."""
        return f"{self.url}/#k={self.page.keys.make_key()}"


@contextmanager
def page_server(
    runtime: Runtime,
    *,
    store: Any = None,
    offer: ToolOffer | None = None,
    keys: PageKeys | None = None,
    port: int = 0,
    tick: float = 0.1,
    **options: Any,
) -> Iterator[PageServer]:
    """Serve the page of a runtime, which stays open, in a thread."""
    models = Models.of(runtime, "demo")
    models.close = _leave_open  # pyright: ignore[reportAttributeAccessIssue]
    page = WebPage(
        models,
        store or MemoryStore(),
        keys or PageKeys(),
        offer=offer,
        tick=tick,
        **options,
    )
    app = create_app(models, ServerSettings(), page)
    config = uvicorn.Config(
        app, port=port, log_config=None, lifespan="on", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < until and thread.is_alive()
        time.sleep(0.01)
    bound = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield PageServer(f"http://127.0.0.1:{bound}", page)
    finally:
        page.drain.start()
        server.should_exit = True
        thread.join(PATIENCE)


async def _leave_open() -> None:
    await asyncio.sleep(0)


@dataclass
class Tab:
    """A tab: the page, and what it asked for and complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Type a question and send it; return once it is shown."""
        turns = self.page.locator(".turn")
        before = turns.count()
        self.page.fill("#question", text)
        self.page.press("#question", "Enter")
        turns.nth(before).wait_for()

    def ready(self) -> None:
        """Wait until nothing is being answered."""
        self.page.get_by_role("button", name="Send", exact=True).wait_for()

    def look_again(self) -> None:
        """Look for the server at once, as when the network is back."""
        self.page.evaluate("dispatchEvent(new Event('online'))")

    def check(self) -> None:
        """Everything came from this machine, and nothing was refused by the policy."""
        hosts = {urlsplit(one).hostname for one in self.requests}
        assert hosts <= set(LOOPBACK), hosts
        assert self.complaints == []


@dataclass
class Chromium:
    """A browser with a profile of its own."""

    context: Any

    def open(self, served: PageServer, *, link: str | None = None) -> Tab:
        """Open a tab; the first of a browser signs in."""
        return self.open_link(link or served.link())

    def open_link(self, link: str) -> Tab:
        """Open a tab at a link to the page."""
        page = self.context.new_page()
        tab = Tab(page)
        page.set_default_timeout(PATIENCE * 1000)
        page.on("request", lambda request: tab.requests.append(request.url))
        page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                tab.complaints.append(said.text) if "Policy" in said.text else None
            ),
        )
        page.goto(link)
        page.wait_for_selector("#question")
        return tab


@contextmanager
def browser(**context: Any) -> Iterator[Chromium]:
    """A headless Chromium."""
    program = find_chromium()
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - may be missing

    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            options: dict[str, Any] = {
                "viewport": {"width": 1180, "height": 800}
            } | context
            yield Chromium(launched.new_context(**options))
        finally:
            launched.close()
