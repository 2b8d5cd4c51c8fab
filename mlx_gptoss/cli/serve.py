"""`mlx-gptoss serve`: OpenAI's API on this machine."""

import logging
from pathlib import Path
from typing import Any

import click

from mlx_gptoss.cli.options import LoadOptions, takes_load_options
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.serving import Duration, api_key, is_loopback, sources_of

OUT = click.Path(dir_okay=False, path_type=Path)
OPTIONS = (
    click.option(
        "-m",
        "--model",
        "models",
        metavar="[NAME=]MODEL",
        multiple=True,
        help="A path (./x), a Hub id (a/b) or `demo`; may be repeated, the first is "
        "the default [default: as of every command]",
    ),
    click.option(
        "--host", default="127.0.0.1", show_default=True, help="Address to listen at"
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8080,
        show_default=True,
        help="Port to listen at; 0 for any free one",
    ),
    click.option(
        "--uds", metavar="PATH", type=OUT, help="Listen at a Unix socket instead"
    ),
    click.option(
        "--ready-file",
        metavar="PATH",
        type=OUT,
        help="Write url, token, pid and model there once requests are served",
    ),
    click.option(
        "--exit-with-parent",
        is_flag=True,
        help="End when the process that started this one ends",
    ),
    click.option(
        "--api-key",
        "key",
        metavar="FILE|env:NAME",
        help="Ask for this key [default: $MLX_GPTOSS_API_KEY, if it is set]",
    ),
    click.option(
        "--any-model", is_flag=True, help="Answer for models of any name, too"
    ),
    click.option(
        "--idle-unload",
        metavar="TIME",
        type=Duration(),
        help="Unload a model nobody has used for so long, like 10m [default: never]",
    ),
    click.option(
        "--drain",
        metavar="TIME",
        type=Duration(),
        default="30s",
        show_default=True,
        help="How long running answers may go on after SIGTERM",
    ),
)


def takes_options(function: Any) -> Any:
    """Give a command OPTIONS."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@click.command(short_help="Serve OpenAI's API")
@takes_options
@takes_load_options
@pass_services
def serve(
    services: Services,
    options: LoadOptions,
    models: tuple[str, ...],
    key: str | None,
    any_model: bool,
    idle_unload: float | None,
    **more: Any,
) -> None:
    """Serve OpenAI's API for the models given, to programs on this machine.

    \b
    mlx-gptoss serve -m openai/gpt-oss-20b
    curl localhost:8080/v1/models
    """
    from mlx_gptoss.memory.budget import device_budget
    from mlx_gptoss.server.app import create_app
    from mlx_gptoss.server.models import Models
    from mlx_gptoss.server.running import Place, serve
    from mlx_gptoss.server.settings import Settings

    host, uds, ready_file = more["host"], more["uds"], more["ready_file"]
    reachable = uds is None and not is_loopback(host)
    token = api_key(key, needed=reachable, made=ready_file is not None)
    sources = sources_of(models, options, services)
    budget = device_budget(options.memory).bytes
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    served = Models(
        sources, idle_seconds=idle_unload, any_model=any_model, budget=budget
    )
    default = sources[0]
    served.adopt(default.name, default.load())
    settings = Settings(api_key=token, hosts=None if uds else Settings().hosts)
    place = Place(
        host=host,
        port=more["port"],
        uds=uds,
        ready_file=ready_file,
        drain_seconds=round(more["drain"]),
        exit_with_parent=more["exit_with_parent"],
    )
    ready = {"token": token, "model": default.name}
    signalled = serve(create_app(served, settings), place, ready)
    click.get_current_context().exit(130 if signalled == 2 else 0)
