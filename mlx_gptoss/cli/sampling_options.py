"""Sampling options, shared by `generate` and `chat`."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from mlx_gptoss.cli.options import collect
from mlx_gptoss.harmony.messages import EFFORTS

HARMONY_OPTIONS = (
    click.option(
        "--effort",
        type=click.Choice(EFFORTS),
        default="medium",
        show_default=True,
        help="How long the model reasons",
    ),
    click.option(
        "--system",
        metavar="TEXT",
        help="Instructions for the whole conversation",
    ),
)
TEMPERATURE_OPTIONS = (  # `serve` has these, too
    click.option(
        "--temperature",
        metavar="X",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        help="Sampling temperature; 0 takes the likeliest token",
    ),
    click.option(
        "--top-p",
        metavar="X",
        type=click.FloatRange(min=0, min_open=True, max=1),
        default=1.0,
        show_default=True,
        help="Sample from the likeliest tokens with this total probability",
    ),
)
SAMPLING_OPTIONS = (
    click.option(
        "--max-tokens",
        metavar="N",
        type=click.IntRange(min=1),
        help="Stop after this many tokens [default: the end of the context]",
    ),
    *TEMPERATURE_OPTIONS,
    click.option(
        "--top-k",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Sample from this many of the likeliest tokens; 0 for all",
    ),
    click.option(
        "--min-p",
        metavar="X",
        type=click.FloatRange(min=0, max=1),
        default=0.0,
        show_default=True,
        help="Drop tokens less likely than this fraction of the likeliest",
    ),
    click.option(
        "--seed",
        metavar="N",
        type=int,
        help="Repeat the same answer for the same seed [default: a new one]",
    ),
)


def takes_sampling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--effort`, `--system` and SAMPLING_OPTIONS to a command.

    It receives `effort`, `system` and `params: SamplingParams`.
    """

    @wraps(function)
    def wrapper(*args: Any, **given: Any) -> Any:
        from mlx_gptoss.engine.sampling_params import SamplingParams

        params = collect(SamplingParams, given)
        return function(*args, params=params, **given)

    for option in reversed(HARMONY_OPTIONS + SAMPLING_OPTIONS):
        wrapper = option(wrapper)
    return wrapper
