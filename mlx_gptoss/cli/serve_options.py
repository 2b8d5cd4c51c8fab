"""The options of `serve`, as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlx_gptoss.cli.options import MemorySizeType
from mlx_gptoss.cli.sampling_options import TEMPERATURE_OPTIONS
from mlx_gptoss.cli.serve_setup import DurationType, ReasoningLimit

OUT = click.Path(dir_okay=False, path_type=Path)
WHERE = (
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
        "--drain",
        metavar="TIME",
        type=DurationType(zero=True),
        default="30s",
        show_default=True,
        help="How long running answers may go on after SIGTERM",
    ),
)
WHO = (
    click.option(
        "--api-key",
        "key",
        metavar="FILE|env:NAME",
        help="Ask for this key; needed where others can reach the address "
        "[default: $MLX_GPTOSS_API_KEY, if it is set]",
    ),
    click.option(
        "--allow-host",
        "allowed_hosts",
        metavar="NAME",
        multiple=True,
        help="A name under which this server is reached, beside localhost",
    ),
    click.option(
        "--cors-origin",
        "origins",
        metavar="ORIGIN",
        multiple=True,
        help="A web page's origin that may ask, like https://app.example "
        "[default: none]",
    ),
    click.option(
        "--max-body",
        metavar="SIZE",
        type=MemorySizeType(),
        default="32MiB",
        show_default=True,
        help="Largest body of a request",
    ),
)
HOW = (
    click.option(
        "--any-model", is_flag=True, help="Answer for models of any name, too"
    ),
    click.option(
        "--idle-unload",
        metavar="TIME",
        type=DurationType(),
        help="Unload a model nobody has used for so long, like 10m [default: never]",
    ),
    click.option(
        "--parallel",
        metavar="N",
        type=click.IntRange(min=1),
        help="Answers computed together [default: 16, as far as memory allows]",
    ),
    click.option(
        "--queue",
        metavar="N",
        type=click.IntRange(min=0),
        help="Requests that may wait for a place; more are told to come back "
        "[default: 64]",
    ),
    click.option(
        "--lazy", is_flag=True, help="Load the first model when it is first asked for"
    ),
    click.option(
        "--max-reasoning",
        metavar="N|auto|off",
        type=ReasoningLimit(),
        default="auto",
        show_default=True,
        help="Tokens of reasoning before the answer; auto leaves it a quarter of the "
        "room",
    ),
    *TEMPERATURE_OPTIONS,
    click.option(
        "--reasoning-field",
        metavar="[reasoning|reasoning_content|both]",
        type=click.Choice(["reasoning", "reasoning_content", "both"]),
        default="reasoning",
        show_default=True,
        help="Where chat completions show reasoning",
    ),
    click.option(
        "--reasoning-events",
        metavar="[openai|open-responses]",
        type=click.Choice(["openai", "open-responses"]),
        default="openai",
        show_default=True,
        help="Whose names streamed responses use for events of reasoning",
    ),
    click.option(
        "--no-loop-guard",
        is_flag=True,
        help="Let text go in circles instead of cutting",
    ),
)
KEPT = (
    click.option(
        "--no-store", is_flag=True, help="Keep nothing of any request on disk"
    ),
    click.option(
        "--log-file",
        metavar="FILE",
        type=OUT,
        help="Write the log there, for its owner only [default: stderr]",
    ),
    click.option(
        "--log-prompts", is_flag=True, help="Write what is asked into the log"
    ),
)


def takes_serve_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all of them."""
    for option in reversed(WHERE + WHO + HOW + KEPT):
        function = option(function)
    return function
