"""The commands `convert` and `verify`: parse, call one function, report."""

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
    with JsonLines() if as_json else Bar("Converting") as progress:
        convert(plan, dst, resume=resume, progress=progress)
    show_result(plan, dst, as_json=as_json)


def find_source(src: str, *, offline: bool) -> Path:
    """Find the file or folder that SRC names, downloading it if it is a Hub id."""
    from mlx_gptoss.hub import resolve

    path = Path(src).expanduser()
    return path if path.is_file() else resolve(src, offline=offline)


@click.command(name="verify", short_help="Prove what a conversion did")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--against", metavar="SRC", help="The checkpoint FOLDER was made of")
@click.option("--offline", is_flag=True, help="Never touch the network")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON lines")
def verify_command(
    folder: Path, against: str | None, offline: bool, as_json: bool
) -> None:
    """Check a converted FOLDER: its digests and values, and its source with --against.

    Against the source, every byte of the experts is compared and the error of the
    rest is measured; the report is kept in FOLDER as report.json.
    """
    from mlx_gptoss.errors import ConversionError
    from mlx_gptoss_convert.findings import save_report
    from mlx_gptoss_convert.progress import Bar, JsonLines, show_report
    from mlx_gptoss_convert.verify import verify

    source = None if against is None else find_source(against, offline=offline)
    with JsonLines() if as_json else Bar("Verifying") as progress:
        report = verify(folder, source, progress=progress)
    show_report(report, as_json=as_json)
    if against is not None:
        save_report(report, folder)
    if report.faults:
        raise ConversionError(
            f"`{folder}` is not as it should be ({len(report.faults)} faults above): "
            "convert again"
        )
