"""The command `compare`."""

import json
from pathlib import Path

import click


@click.command(name="compare", short_help="Compare two conversions")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object")
def compare_command(a: Path, b: Path, as_json: bool) -> None:
    """Print the reports of `verify --against` in the folders A and B side by side."""
    from mlx_gptoss_convert.measure.compare import align_rows, compare

    rows = compare(a, b)
    if as_json:
        click.echo(json.dumps({label or "name": [x, y] for label, x, y in rows}))
    else:
        click.echo(align_rows(rows))
