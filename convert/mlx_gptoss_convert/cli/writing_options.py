"""Options that `convert` and `merge` share: what is written, and how."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from mlx_gptoss.cli.given import refuse_given
from mlx_gptoss.cli.options import MemorySizeType
from mlx_gptoss_convert.plan.recipe import DEFAULT, RECIPES

Command = TypeVar("Command", bound=Callable[..., None])

recipe_option = click.option(
    "--recipe",
    default=DEFAULT,
    show_default=True,
    help=f"What to keep: {', '.join(RECIPES)}, or a TOML file",
)


def takes_writing(work: str) -> Callable[[Command], Command]:
    """Add the options of a command that writes a model; `work` is what it does."""
    options = [
        click.option(
            "--tokenizer",
            metavar="PATH",
            type=click.Path(exists=True, path_type=Path),
            help="A tokenizer.json, or its folder, instead of the model's",
        ),
        click.option(
            "--tokenizer-pre",
            metavar="NAME",
            help="llama.cpp's name of the pre-tokenizer, for --to gguf",
        ),
        click.option("--force", is_flag=True, help="Do what is refused as harmful"),
        click.option(
            "--max-memory",
            type=MemorySizeType(),
            default="1GB",
            show_default=True,
            help="Memory that writing may take, above the program itself",
        ),
        click.option("--resume", is_flag=True, help=f"Continue an interrupted {work}"),
        click.option(
            "--dry-run",
            is_flag=True,
            help="List what becomes of every tensor, write nothing",
        ),
        click.option("--offline", is_flag=True, help="Never touch the network"),
        click.option("--json", "as_json", is_flag=True, help="Report as JSON lines"),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def refuse_unused(to: str, *, adapter_alone: bool = False) -> None:
    """Raise UsageError for an option that does nothing for the output `to`."""
    if adapter_alone:
        refuse_given(
            (
                "recipe",
                "experts",
                "text",
                "no_kl",
                "tokenizer_pre",
                "force",
                "max_memory",
                "resume",
            ),
            f"does nothing with --to {to}, which merges nothing: leave it out",
        )
    if to != "gguf":
        refuse_given(["tokenizer_pre"], "is for --to gguf: leave it out")
    if to != "mlx":
        refuse_given(["layout"], "is for MLX folders: leave it out, or --to")
