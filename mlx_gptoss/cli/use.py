"""`mlx-gptoss use MODEL`: choose the default model."""

from pathlib import Path

import click

from mlx_gptoss.checkpoint.hub.local_models import is_path, local_folder
from mlx_gptoss.cli.options import folder_or_name, model_argument
from mlx_gptoss.cli.settings import VARIABLE, choose_model, default_model


@click.command(short_help="Choose the default model")
@model_argument(required=False)
def use(model: str | None) -> None:
    """Choose the default model; without MODEL, print it.

    MODEL is a path (./x), a Hub id (a/b) or `demo`. A Hub id is downloaded when it
    is first needed, or at once with `mlx-gptoss pull MODEL`. The environment
    variable MLX_GPTOSS_MODEL overrides this choice.
    """
    if model is None:
        click.echo(default_model()[0])
        return
    model = folder_or_name(model)
    local_folder(model)  # raises for a path or a name that does not exist
    chosen = str(Path(model).expanduser().resolve()) if is_path(model) else model
    stored = choose_model(chosen)
    click.echo(f"Default model: {chosen} (in {stored})", err=True)
    meant = default_model()[0]
    if meant != chosen:
        click.echo(f"${VARIABLE} is set and overrides it: {meant}", err=True)
