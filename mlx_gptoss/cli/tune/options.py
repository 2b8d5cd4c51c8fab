"""The options of training, which become one `TuneOptions`.

Their defaults are its own; a test compares them.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from mlx_gptoss.cli.options import collect

SWITCH = click.Choice(["auto", "on", "off"])
POSITIVE = click.IntRange(min=1)


class WordsType(click.ParamType):
    """Some of a list of words, with commas between them."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.name = "words"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        given = tuple(word.strip() for word in value.split(","))
        for word in given:
            if word not in self.words:
                known = ", ".join(self.words)
                self.fail(f"`{word}` is not one of {known}", param, ctx)
        return given


TUNE_OPTIONS = (
    click.option(
        "--target",
        type=WordsType("attention", "router", "experts", "lm_head", "all"),
        default="attention",
        show_default=True,
        metavar="TARGETS",
        help="Weights to update: attention, router, experts, lm_head, or "
        "all (the first three); with commas between them",
    ),
    click.option(
        "--rank",
        type=POSITIVE,
        default=8,
        show_default=True,
        help="Rank of every update",
    ),
    click.option(
        "--alpha",
        type=click.FloatRange(0, min_open=True),
        help="Scale updates by alpha / rank [default: twice the rank]",
    ),
    click.option(
        "--layers", type=POSITIVE, help="Train only the upper N layers [default: all]"
    ),
    click.option(
        "--steps", type=POSITIVE, help="Optimizer steps [default: as --epochs gives]"
    ),
    click.option(
        "--epochs",
        type=POSITIVE,
        default=1,
        show_default=True,
        help="Passes over the examples",
    ),
    click.option(
        "--batch-tokens",
        type=POSITIVE,
        default=2048,
        show_default=True,
        help="Most tokens computed at once",
    ),
    click.option(
        "--accumulate",
        type=POSITIVE,
        default=1,
        show_default=True,
        help="Batches per optimizer step",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(0, min_open=True),
        default=2e-4,
        show_default=True,
        help="Peak of the learning rate",
    ),
    click.option(
        "--warmup",
        type=click.IntRange(min=0),
        help="Steps until that peak [default: a tenth of all]",
    ),
    click.option(
        "--final-rate",
        type=click.FloatRange(0, 1),
        default=0.1,
        show_default=True,
        help="Share of the peak at the last step, reached along a cosine",
    ),
    click.option(
        "--weight-decay",
        type=click.FloatRange(0),
        default=0.01,
        show_default=True,
        help="AdamW's weight decay",
    ),
    click.option(
        "--clip",
        type=click.FloatRange(0),
        default=1.0,
        show_default=True,
        help="Largest norm of the whole gradient; 0 does not clip",
    ),
    click.option(
        "--dropout",
        metavar="SHARE",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Share of an update's inputs that is dropped while training",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the first weights, the order of the examples and the dropout",
    ),
    click.option(
        "--checkpointing",
        type=SWITCH,
        default="auto",
        show_default=True,
        help="Compute layers again for their gradient: slower, in less memory",
    ),
    click.option(
        "--decode",
        type=SWITCH,
        default="auto",
        show_default=True,
        help="Keep quantized weights in float32: faster on a CPU, in more memory",
    ),
    click.option(
        "--evaluate-every",
        type=POSITIVE,
        help="Steps between validations [default: a tenth of all]",
    ),
    click.option(
        "--save-every",
        type=POSITIVE,
        help="Steps between saves, which --resume goes on from "
        "[default: at each validation]",
    ),
    click.option(
        "--patience",
        type=POSITIVE,
        help="Stop after N validations without a lower loss [default: never]",
    ),
)


def trains(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of training; the command receives `tuning: TuneOptions`."""

    @wraps(function)
    def wrapper(*args: Any, **given: Any) -> Any:
        from mlx_gptoss.workloads.tune.options import TuneOptions

        tuning = collect(TuneOptions, given)
        return function(*args, tuning=tuning, **given)

    for option in reversed(TUNE_OPTIONS):
        wrapper = option(wrapper)
    return wrapper
