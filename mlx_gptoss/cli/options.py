"""The options of every command that loads a model, declared once."""

import os
from collections.abc import Callable, Collection
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mlx_gptoss.checkpoint.hub.local_models import resolve_spelling
from mlx_gptoss.cli.settings import default_model
from mlx_gptoss.cli.shell_words import complete_adapters, complete_models
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import parse_bytes


class MemorySizeType(click.ParamType):
    """A size such as `16GB` or `12.5GiB`, or bytes; 0 if `may_be_none`."""

    name = "size"

    def __init__(self, *, may_be_none: bool = False) -> None:
        self.may_be_none = may_be_none

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if value in (0, "0") and self.may_be_none:
            return 0
        try:
            return parse_bytes(value)
        except GptOssError as error:
            return self.fail(str(error), param, ctx)


def named_model(model: str | None) -> str:
    """Return `model` or the default, with a hint on stderr for the demo."""
    if model is not None:
        return folder_or_name(os.fspath(model))
    name, hint = default_model()
    if hint:
        click.echo(hint, err=True)
    return folder_or_name(name)


def folder_or_name(model: str) -> str:
    """Return a local folder with weights as a path, with one note on stderr."""
    written, remark = resolve_spelling(model)
    context = click.get_current_context(silent=True)
    said: set[str] = context.meta.setdefault(__name__, set()) if context else set()
    if remark is not None and remark not in said:
        note(remark)
        said.add(remark)
    return written


offline_option = click.option("--offline", is_flag=True, help="Never touch the network")
strict_option = click.option(
    "--strict", is_flag=True, help="Unknown keys of config.json are errors"
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object"
)
json_list_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON array"
)
model_option = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_models,
    help="A path (./x), a Hub id (a/b) or `demo` "
    "[default: $MLX_GPTOSS_MODEL, else the model chosen with `use`, else demo]",
)


def model_argument(name: str = "model", **settings: Any) -> Callable[..., Any]:
    """Add an argument that names a model, and completes the names of local ones."""
    return click.argument(name, shell_complete=complete_models, **settings)


adapter_option = click.option(
    "-a",
    "--adapter",
    "adapters",
    metavar="[NAME=]ADAPTER[:SCALE]",
    multiple=True,
    shell_complete=complete_adapters,
    help="Load an adapter (LoRA): a folder or a Hub id, times SCALE; may be repeated",
)
SET_BY_COMMANDS = {"harmony", "cache", "batch"}  # fields without an option of their own
LOAD_OPTIONS = (
    click.option(
        "--memory",
        type=MemorySizeType(),
        help="Memory the model may use, such as 16GB [default: all there is]",
    ),
    click.option(
        "--experts",
        metavar="WHERE",
        type=click.Choice(["auto", "resident", "hybrid", "streamed"]),
        default="auto",
        show_default=True,
        help="Where the experts' weights are: auto, resident, hybrid or streamed",
    ),
    click.option(
        "--context",
        metavar="N",
        type=click.IntRange(min=1),
        help="Longest conversation in tokens [default: the model's whole context]",
    ),
    click.option(
        "--dtype",
        metavar="[float32|bfloat16|float16]",
        help="Precision of the arithmetic [default: bfloat16 on GPU, float32 on CPU]; "
        "float16 for M1 and M2, where bfloat16 is emulated",
    ),
    click.option(
        "--wired",
        metavar="[auto|off|SIZE]",
        default="auto",
        show_default=True,
        help="Memory a GPU keeps wired: auto (the model's size), off, or a size",
    ),
    click.option(
        "--trace",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Place experts by the hit rates of a recorded run (see `trace record`)",
    ),
    offline_option,
    strict_option,
)


def loads_model(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `-m` and LOAD_OPTIONS to a command.

    It receives `model: str`, chosen or the default, and `options: LoadOptions`.
    """

    @wraps(function)
    def wrapper(*args: Any, model: str | None, **given: Any) -> Any:
        return function(*args, model=named_model(model), **given)

    return model_option(takes_load_options(wrapper))


def takes_load_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add LOAD_OPTIONS to a command, which receives `options: LoadOptions`."""
    wrapper = collects_load_options(function)
    for option in reversed(LOAD_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def collects_load_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Collect the options that are fields of LoadOptions into `options`."""

    @wraps(function)
    def wrapper(*args: Any, **given: Any) -> Any:
        from mlx_gptoss.engine.load_options import LoadOptions

        options = collect(LoadOptions, given, without=SET_BY_COMMANDS)
        return function(*args, options=options, **given)

    return wrapper


def collect(
    kind: type[Any], given: dict[str, Any], *, without: Collection[str] = ()
) -> Any:
    """Move those of the options `given` that are fields of a dataclass into one."""
    names = {each.name for each in fields(kind)}.intersection(given).difference(without)
    return kind(**{name: given.pop(name) for name in names})
