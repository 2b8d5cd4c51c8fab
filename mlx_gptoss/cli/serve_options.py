"""The options of `serve`, as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlx_gptoss.cli.options import MemorySizeType
from mlx_gptoss.cli.sampling_options import TEMPERATURE_OPTIONS
from mlx_gptoss.cli.serve_setup import DurationType, ReasoningLimit
from mlx_gptoss.cli.shell_words import complete_models

OUT = click.Path(dir_okay=False, path_type=Path)
LISTEN_OPTIONS = (
    click.option(
        "-m",
        "--model",
        "models",
        metavar="[NAME=]MODEL",
        multiple=True,
        shell_complete=complete_models,
        help="A path (./x), a Hub id (a/b) or `demo`; may be repeated, the first is "
        "the default [default: the default model]",
    ),
    click.option(
        "--host", default="127.0.0.1", show_default=True, help="Address to listen on"
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8080,
        show_default=True,
        help="Port to listen on; 0 for any free port",
    ),
    click.option(
        "--uds", metavar="PATH", type=OUT, help="Listen on a Unix socket instead"
    ),
    click.option(
        "--ready-file",
        metavar="PATH",
        type=OUT,
        help="Write url, token, pid and model to this file once the server is ready",
    ),
    click.option(
        "--open", "browse", is_flag=True, help="Open the chat page in the browser"
    ),
    click.option(
        "--exit-with-parent",
        is_flag=True,
        help="Exit when the process that started this one exits",
    ),
    click.option(
        "--drain",
        metavar="TIME",
        type=DurationType(zero=True),
        default="30s",
        show_default=True,
        help="How long running answers may continue after SIGTERM",
    ),
)
ACCESS_OPTIONS = (
    click.option(
        "--api-key",
        "key",
        metavar="FILE|env:NAME",
        help="Require this key; needed if others can reach the address "
        "[default: $MLX_GPTOSS_API_KEY, if set]",
    ),
    click.option(
        "--allow-host",
        "allowed_hosts",
        metavar="NAME",
        multiple=True,
        help="A host name that reaches this server, besides localhost",
    ),
    click.option(
        "--cors-origin",
        "origins",
        metavar="ORIGIN",
        multiple=True,
        help="Origin of a web page that may send requests, like https://app.example "
        "[default: none]",
    ),
    click.option(
        "--max-body",
        metavar="SIZE",
        type=MemorySizeType(),
        default="32MiB",
        show_default=True,
        help="Largest request body",
    ),
)
ANSWER_OPTIONS = (
    click.option(
        "--adapters",
        "adapter_folder",
        metavar="DIR",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Serve each adapter in a subfolder of DIR as MODEL:SUBFOLDER; SIGHUP and "
        "/v1/models look through it again",
    ),
    click.option(
        "--redact-model",
        metavar="MODEL",
        shell_complete=complete_models,
        help="Mask private text with this token classifier, at /v1/redact: a path "
        "(./x) or a Hub id, such as openai/privacy-filter",
    ),
    click.option("--no-ollama", is_flag=True, help="Do not serve Ollama's API, /api/…"),
    click.option("--any-model", is_flag=True, help="Accept any model name in requests"),
    click.option(
        "--idle-unload",
        metavar="TIME",
        type=DurationType(),
        help="Unload a model after this time without requests, e.g. 10m "
        "[default: never]",
    ),
    click.option(
        "--parallel",
        metavar="N",
        type=click.IntRange(min=1),
        help="Requests decoded together [default: 16, as memory allows]",
    ),
    click.option(
        "--queue",
        metavar="N",
        type=click.IntRange(min=0),
        help="Requests that may wait; more get status 429 with Retry-After "
        "[default: 64]",
    ),
    click.option(
        "--fairness",
        metavar="SHARE",
        type=click.FloatRange(0, 1, max_open=True),
        help="Share of its pace that a running answer keeps while prompts of others "
        "are read; 0 reads prompts first [default: 0.25]",
    ),
    click.option(
        "--lazy", is_flag=True, help="Load the first model at its first request"
    ),
    click.option(
        "--max-reasoning",
        metavar="N|auto|off",
        type=ReasoningLimit(),
        default="auto",
        show_default=True,
        help="Tokens of reasoning before the answer; auto keeps a quarter of the room "
        "for the answer",
    ),
    *TEMPERATURE_OPTIONS,
    click.option(
        "--reasoning-field",
        metavar="[reasoning|reasoning_content|both]",
        type=click.Choice(["reasoning", "reasoning_content", "both"]),
        default="reasoning",
        show_default=True,
        help="Field of chat completions that holds reasoning",
    ),
    click.option(
        "--reasoning-events",
        metavar="[openai|open-responses]",
        type=click.Choice(["openai", "open-responses"]),
        default="openai",
        show_default=True,
        help="Naming of reasoning events in streamed responses",
    ),
    click.option(
        "--no-comments",
        is_flag=True,
        help="No comments in streams, for clients that cannot read them (shell-gpt)",
    ),
    click.option(
        "--no-loop-guard",
        is_flag=True,
        help="Do not cut text that repeats itself",
    ),
)
POLICY_OPTIONS = (
    click.option(
        "--policy",
        "policies",
        metavar="[NAME=]FILE",
        multiple=True,
        help="Judge texts by this policy, at /v1/moderations; may be repeated (see "
        "`classify`)",
    ),
    click.option(
        "--guard",
        "guards",
        metavar="input NAME",
        type=(click.Choice(["input"]), str),
        multiple=True,
        help="Refuse requests that the policy NAME flags",
    ),
    click.option(
        "--calibration",
        "calibrations",
        metavar="[NAME=]FILE",
        multiple=True,
        help="Use what `classify --calibrate` wrote for the policy NAME",
    ),
    click.option(
        "--policy-model",
        metavar="NAME",
        help="The model that judges, one of those served [default: the first]",
    ),
)
STORAGE_OPTIONS = (
    click.option(
        "--no-store", is_flag=True, help="Store nothing about requests on disk"
    ),
    click.option(
        "--log-file",
        metavar="FILE",
        type=OUT,
        help="Log to this file, readable by its owner only [default: stderr]",
    ),
    click.option("--log-prompts", is_flag=True, help="Also log the text of requests"),
)


def takes_serve_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options of `serve` to a command."""
    for option in reversed(
        LISTEN_OPTIONS
        + ACCESS_OPTIONS
        + ANSWER_OPTIONS
        + POLICY_OPTIONS
        + STORAGE_OPTIONS
    ):
        function = option(function)
    return function
