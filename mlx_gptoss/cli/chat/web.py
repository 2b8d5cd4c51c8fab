"""`mlx-gptoss chat --web`: the same conversations in a browser, until Ctrl-C.

The server is for the page alone: it listens at a free port of this machine, and its
APIs have a key that nobody knows.
"""

import secrets
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli import INTERRUPTED
from mlx_gptoss.cli.chat.model_too_large import explaining
from mlx_gptoss.cli.chat.session import SessionOptions
from mlx_gptoss.cli.chat.start import StartOptions
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.cli.tool_options import ToolOptions
from mlx_gptoss.cli.web_page import open_page, served_source, show_link
from mlx_gptoss.errors import PromptError

if TYPE_CHECKING:
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss.engine.load_options import LoadOptions

KEY_BYTES = 24
DRAIN_SECONDS = 2.0


def hold_page(
    services: "Services",
    model: str,
    options: "LoadOptions",
    setup: SessionOptions,
    tools: ToolOptions,
    start: StartOptions,
) -> None:
    """Serve the page and open it in the browser.

    Raises PromptError and SessionError for a conversation that is not there.
    """
    from mlx_gptoss.api.settings import ServerSettings
    from mlx_gptoss.memory.budget import device_budget
    from mlx_gptoss.server.app import create_app
    from mlx_gptoss.server.models import Models
    from mlx_gptoss.server.process import ServeOptions, listen, serve
    from mlx_gptoss.server.web.chat_settings import ChatSettings

    chat = _wanted_chat(services, start)
    make_source = served_source(services, options, None)
    first = make_source(model)
    place = ServeOptions(port=0, drain_seconds=DRAIN_SECONDS)
    listening = listen(place)
    served = Models([first], budget=device_budget(options.memory).bytes)
    with explaining(services, model, options):
        served.adopt(first.name, first.load())
    settings = ServerSettings(api_key=secrets.token_urlsafe(KEY_BYTES))
    defaults = ChatSettings(
        effort=setup.effort,  # pyright: ignore[reportArgumentType] - it was checked
        temperature=setup.params.temperature,
        system=setup.system or "",
    )
    with open_page(
        services,
        served,
        options,
        tools,
        make_source,
        private=setup.private,
        defaults=defaults,
        params=setup.params,
    ) as page:
        page.defaults.tools = page.offer.names
        app = create_app(served, settings, page)
        note("Ctrl-C ends the page")
        ended_by = serve(
            app,
            listening,
            place,
            {"model": first.name},
            app.state.service.drain,
            on_ready=show_link(page, browse=True, chat=chat),
        )
    click.get_current_context().exit(INTERRUPTED if ended_by else 0)


def _wanted_chat(services: "Services", start: StartOptions) -> str | None:
    """Return the id of the conversation to open, if one was named."""
    if start.prompt is not None:
        raise click.UsageError("--web takes no PROMPT: type it into the page")
    if start.session:
        return services.sessions().find(start.session)
    if not start.resume:
        return None
    latest = services.sessions().list(1)
    if not latest:
        raise PromptError("no chat is saved yet: start one with `mlx-gptoss chat`")
    return latest[0].id
