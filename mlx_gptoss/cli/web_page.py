"""The chat page as commands start it: its store, tools, models and link.

    with open_page(services, models, options, tools, private=False, ...) as page:
        app = create_app(models, settings, page)
        serve(app, ..., on_ready=show_link(page, browse=True))

The key of the link goes to the terminal or to the browser, never to a log.
"""

import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.terminal import note
from mlx_gptoss.cli.tool_options import (
    BROWSER,
    PYTHON,
    ToolOptions,
    named_tools,
    open_browser_tool,
    read_approval,
    start_mcp,
)
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.files import config_folder

if TYPE_CHECKING:
    from mlx_gptoss.chat.tools import Approval, ToolLike
    from mlx_gptoss.chat.tools.approval import AskUser
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.server.models import Models, ModelSource
    from mlx_gptoss.server.web.chat_settings import ChatSettings
    from mlx_gptoss.server.web.memory_store import ChatStore
    from mlx_gptoss.server.web.page import WebPage
    from mlx_gptoss.server.web.tools import ToolOffer

STORE = "server"  # the folder of what a server keeps, in that of the settings
NO_BROWSER = "no browser could be started: open the link yourself"
NO_LINK = "no browser could be started: run this in a terminal, which shows the link"


@contextmanager
def open_page(
    services: "Services",
    models: "Models",
    options: "LoadOptions",
    tools: ToolOptions,
    make_source: "Callable[[str], ModelSource]",
    *,
    private: bool,
    defaults: "ChatSettings | None" = None,
    params: "SamplingParams | None" = None,
) -> "Iterator[WebPage]":
    """Open the page of a server; its MCP servers stop when the `with` ends.

    With `private` nothing is kept. Raises click.BadParameter and ToolError for tools.
    """
    from mlx_gptoss.server.web.downloads import ModelLibrary
    from mlx_gptoss.server.web.keys import PageKeys, read_secret
    from mlx_gptoss.server.web.page import WebPage

    with ExitStack() as stack:
        offer = stack.enter_context(offered_tools(tools, offline=options.offline))
        secret = None if private else read_secret(config_folder() / STORE)
        yield WebPage(
            models,
            _store(services, private=private),
            PageKeys(secret),
            defaults=defaults,
            params=params,
            offer=offer,
            library=ModelLibrary(services.hub, options, make_source),
            private=private,
        )


@contextmanager
def offered_tools(options: ToolOptions, *, offline: bool) -> "Iterator[ToolOffer]":
    """Offer the tools that options name: a notebook for each conversation, and so on.

    MCP servers are started once, for all conversations.
    """
    from mlx_gptoss.server.web.tools import ToolOffer

    opening: dict[str, Callable[[], AbstractContextManager[ToolLike]]] = {}
    with ExitStack() as stack:
        for name, target in named_tools(options.tools):
            if name == PYTHON:
                opening[PYTHON] = _open_notebook
            else:
                open_browser_tool(target, offline=offline)  # a mistake shows at once
                opening[BROWSER] = _browser_opener(target, offline=offline)
        for name, started in start_mcp(options.mcp, stack, offline=offline):
            opening[name] = _shared(started)
        read_approval(options.approve, lambda call: False)  # a mistake shows at once

        def approval(ask: "AskUser") -> "Approval":
            return read_approval(options.approve, ask)

        yield ToolOffer(opening, approval)


def show_link(
    page: "WebPage", *, browse: bool, chat: str | None = None
) -> Callable[[str], None]:
    """Return a function that says where the page is, and opens it with `browse`.

    `chat` is the conversation that it begins with.
    """
    behind = "" if chat is None else f"&c={chat}"

    def show(url: str) -> None:
        if not url.startswith("http://"):
            return
        in_terminal = sys.stderr.isatty()
        if in_terminal:
            note(f"Chat page: {url}/#k={page.keys.make_key(once=False)}{behind}")
        elif browse:
            note(f"Chat page: {url}/ (in the browser, which this signs in)")
        else:
            note(f"Chat page: {url}/ (--open signs a browser in)")
        if browse and not webbrowser.open(f"{url}/#k={page.keys.make_key()}{behind}"):
            note(NO_BROWSER if in_terminal else NO_LINK)

    return show


def _store(services: "Services", *, private: bool) -> "ChatStore":
    """Open the saved conversations; without them, the page keeps none."""
    from mlx_gptoss.server.web.memory_store import MemoryStore

    if private:
        return MemoryStore()
    try:
        return services.sessions()
    except GptOssError as error:
        click.echo(f"Warning: {error}; the page keeps no conversation", err=True)
        return MemoryStore()


def _open_notebook() -> "AbstractContextManager[ToolLike]":
    from mlx_gptoss.chat.tools.notebook import Notebook

    return Notebook()


def _browser_opener(
    target: str, *, offline: bool
) -> "Callable[[], AbstractContextManager[ToolLike]]":
    return lambda: nullcontext(open_browser_tool(target, offline=offline))


def _shared(tool: Any) -> "Callable[[], AbstractContextManager[ToolLike]]":
    return lambda: nullcontext(tool)


def served_source(
    services: "Services", options: "LoadOptions", folder: Path | None
) -> "Callable[[str], ModelSource]":
    """Return a function that makes a model of this machine servable by its name."""
    from mlx_gptoss.cli.serve_setup import sources_of

    return lambda name: sources_of([name], options, services, folder)[0]
