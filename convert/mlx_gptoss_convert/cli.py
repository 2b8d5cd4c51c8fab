"""`mlx-gptoss convert SRC DST`: parse, plan, convert, report."""

from pathlib import Path

import click

from mlx_gptoss_convert.recipe import DEFAULT, RECIPES

LAYOUTS = ("packed", "split")


@click.command(name="convert", short_help="Convert a checkpoint")
@click.argument("src", metavar="SRC")
@click.argument("dst", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    default=DEFAULT,
    show_default=True,
    help=f"What to keep: {', '.join(RECIPES)}, or a TOML file",
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default=LAYOUTS[0],
    show_default=True,
    help="Experts as OpenAI packed them, or gate and up apart",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted conversion")
@click.option("--dry-run", is_flag=True, help="Show every tensor's fate, write nothing")
@click.option("--offline", is_flag=True, help="Never touch the network")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON lines")
def command(
    src: str,
    dst: Path,
    recipe: str,
    layout: str,
    resume: bool,
    dry_run: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SRC into the new MLX folder DST.

    SRC is a folder, a safetensors file or a Hub id, in any layout that can be loaded.
    Experts keep their bytes; the recipe says what becomes of the rest.
    """
    from mlx_gptoss.checkpoint import open_checkpoint
    from mlx_gptoss_convert.conversion import convert
    from mlx_gptoss_convert.plan import make_plan
    from mlx_gptoss_convert.progress import Bar, JsonLines, show_plan, show_result
    from mlx_gptoss_convert.recipe import open_recipe

    chosen = open_recipe(recipe)
    checkpoint = open_checkpoint(find_source(src, offline=offline))
    plan = make_plan(checkpoint, chosen, experts=layout)
    if dry_run:
        show_plan(plan, as_json=as_json)
        return
    with JsonLines() if as_json else Bar(plan.nbytes) as progress:
        convert(plan, dst, resume=resume, progress=progress)
    show_result(plan, dst, as_json=as_json)


def find_source(src: str, *, offline: bool) -> Path:
    """Find the file or folder that SRC names, downloading it if it is a Hub id."""
    from mlx_gptoss.hub import resolve

    path = Path(src).expanduser()
    return path if path.is_file() else resolve(src, offline=offline)
